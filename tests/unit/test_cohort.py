"""An answer that does not belong is refused by name; nothing is averaged in silence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import nn

from fedunlearn.errors import BadAnswerError, ForgetSetError, InputError, MissingAnswerError
from fedunlearn.federation.accounting import MeterStack
from fedunlearn.federation.objective import FederatedObjective
from fedunlearn.model_state import ModelState
from fedunlearn.node.node import TaskNode
from fedunlearn.parameters import flatten
from fedunlearn.progress import Silent
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.kinds import Signs
from fedunlearn.questions.question import Answer, Question
from fedunlearn.risk.products import Curvature
from tests.federations import TinyTask, weights_of

POINTS = torch.zeros(1, len(weights_of(TinyTask())), dtype=torch.float64)

Tamper = Callable[[Answer], Answer | None]


class TamperingTransport:
    """Nodes by call; the answers of node 1 pass through a hand, from a given round on."""

    def __init__(self, tamper: Tamper, from_round: int) -> None:
        self.tamper = tamper
        self.from_round = from_round
        self.task = TinyTask()

    def ask(
        self, question: Question, nodes: Sequence[int], /, *, deadline_s: float
    ) -> Iterator[Answer]:
        del deadline_s
        for number in nodes:
            answer: Answer | None = TaskNode(self.task, number).answer(question)
            if number == 1 and question.round >= self.from_round:
                assert answer is not None
                answer = self.tamper(answer)
            if answer is not None:
                yield answer


def objective_with(tamper: Tamper, from_round: int = 0) -> FederatedObjective:
    return FederatedObjective(
        TamperingTransport(tamper, from_round),
        (0, 1, 2),
        ForgetSet.of_nodes(0),
        weight_decay=0.0,
        meters=MeterStack(),
        progress=Silent(),
        deadline_s=5.0,
    )


def changed(**fields: object) -> Tamper:
    return lambda answer: dataclasses.replace(answer, **fields)  # type: ignore[arg-type]


def values(change: Callable[[torch.Tensor], torch.Tensor]) -> Tamper:
    return lambda answer: dataclasses.replace(
        answer, values={part: change(tensor) for part, tensor in answer.values.items()}
    )


TAMPERED = {
    "another job": (changed(job="other"), "another job"),
    "another round": (changed(round=99), "another round"),
    "another model": (changed(model_digest=b"x"), "another model digest"),
    "other vectors": (changed(vectors_digest=b"x"), "another vectors digest"),
    "a stranger": (changed(node=17), "not of the cohort"),
    "wrong shape": (values(lambda t: t[..., :-1]), "shape"),
    "NaN": (values(lambda t: t * float("nan")), "NaN or infinity"),
    "infinity": (values(lambda t: t + float("inf")), "NaN or infinity"),
    "left out": (changed(values={}), "left out the retain part"),
}


def labels(*chosen: int) -> Tamper:
    """Change the labels; whose number of rows it is stays as it was."""
    return changed(labels={Part.RETAIN: chosen})


# Node 1 holds labels 0 to 2; the summaries are of a basis of two, so that a row has 7 numbers.
TAMPERED_GROUPS = {
    "labels that descend": (labels(2, 1, 0), "labels for retain that do not ascend"),
    "a label twice": (labels(0, 1, 1), "labels for retain that do not ascend"),
    "fewer labels than rows": (labels(0, 2), "shape .* for retain"),
    "more labels than rows": (labels(0, 1, 2, 3), "shape .* for retain"),
    "no labels": (changed(labels={}), "shape .* for retain"),
    "a row less": (values(lambda t: t[:-1]), "shape .* for retain"),
    "a row more": (values(lambda t: torch.cat([t, t[:1]])), "shape .* for retain"),
    "shorter rows": (values(lambda t: t[:, :-1]), "shape .* for retain"),
    "longer rows": (values(lambda t: torch.cat([t, t[:, :1]], 1)), "shape .* for retain"),
    "flat": (values(lambda t: t.reshape(-1)), "shape .* for retain"),
    "NaN": (values(lambda t: t * float("nan")), "NaN or infinity for retain"),
    "infinity": (values(lambda t: t - float("inf")), "NaN or infinity for retain"),
    "left out": (changed(values={}), "left out the retain part"),
    "another part": (
        lambda answer: dataclasses.replace(
            answer, values=dict(answer.values) | {Part.FORGET: answer.values[Part.RETAIN]}
        ),
        "answered for forget, which was not asked for",
    ),
}


@pytest.mark.parametrize("summaries", [False, True])
@pytest.mark.parametrize("how", TAMPERED_GROUPS)
def test_groups_that_do_not_belong_are_refused(how: str, summaries: bool) -> None:
    tamper, says = TAMPERED_GROUPS[how]
    with pytest.raises(BadAnswerError, match=f"^node 1 .*{says}"):
        list(groups_of(objective_with(tamper), summaries=summaries, by_label=True))


@pytest.mark.parametrize("summaries", [False, True])
def test_labels_that_were_not_asked_for_are_refused(summaries: bool) -> None:
    with pytest.raises(BadAnswerError, match="node 1 answered with labels for retain, asked for"):
        list(groups_of(objective_with(labels(0)), summaries=summaries, by_label=False))


def evaluated(objective: FederatedObjective) -> object:
    point = weights_of(TinyTask())
    return objective.evaluate(point, point[None])


def estimated(objective: FederatedObjective) -> object:
    return objective.statistics(flatten(Normalised().model()), 4, seed=0)


class Normalised(TinyTask):
    def model(self) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 3)).double().eval()


@pytest.mark.parametrize("how", ["wrong shape", "left out", "another model", "another round"])
@pytest.mark.parametrize("ask", [evaluated, estimated])
def test_evaluations_and_statistics_that_do_not_belong_are_refused(
    ask: Callable[[FederatedObjective], object], how: str
) -> None:
    tamper, says = TAMPERED[how]
    objective = objective_with(tamper)
    if ask is estimated:
        assert isinstance(objective._transport, TamperingTransport)
        objective._transport.task = Normalised()
        state = {"0.running_mean": torch.zeros(2), "0.running_var": torch.ones(2)}
        objective.state = ModelState(state)
    with pytest.raises(BadAnswerError, match=says):
        ask(objective)


def test_statistics_of_nan_are_refused_and_losses_that_overflow_are_not() -> None:
    infinite = values(lambda t: t + float("inf"))
    objective = objective_with(infinite)
    assert isinstance(objective._transport, TamperingTransport)
    objective._transport.task = Normalised()
    state = {"0.running_mean": torch.zeros(2), "0.running_var": torch.ones(2)}
    objective.state = ModelState(state)
    with pytest.raises(BadAnswerError, match="NaN or infinity for retain"):
        estimated(objective)
    overflow = values(lambda t: torch.cat([t[..., :1] + float("inf"), t[..., 1:]], -1))
    (first, _) = objective_with(overflow).evaluate(weights_of(TinyTask()), POINTS)[Part.RETAIN]
    assert first.own is not None and first.own.loss == float("inf")
    with pytest.raises(InputError, match="batches of 1 have no variance"):
        objective.statistics(flatten(Normalised().model()), 1, seed=0)


def test_signed_sums_of_the_wrong_number_are_refused() -> None:
    objective = objective_with(values(lambda t: t[:-1]))
    with pytest.raises(BadAnswerError, match="node 1 answered with shape"):
        objective.signed_gradients(weights_of(TinyTask()), by_label=True, signs=Signs(4, seed=0))


def groups_of(
    objective: FederatedObjective, *, summaries: bool, by_label: bool
) -> Iterator[object]:
    point = weights_of(TinyTask())
    if not summaries:
        return objective.group_gradients(point, by_label=by_label)
    basis = torch.eye(len(point), dtype=torch.float64)[:2]
    return objective.summaries(point, basis, Curvature.GGN, part=Part.RETAIN, by_label=by_label)


@pytest.mark.parametrize("how", TAMPERED)
def test_answers_that_do_not_belong_are_refused(how: str) -> None:
    tamper, says = TAMPERED[how]
    with pytest.raises(BadAnswerError, match=says):
        objective_with(tamper).gradients(weights_of(TinyTask()))


def test_counts_may_not_change_during_a_job() -> None:
    weights = weights_of(TinyTask())
    fewer = changed(counts={Part.RETAIN: 5, Part.FORGET: 0})
    objective = objective_with(fewer, from_round=1)
    objective.gradients(weights)
    operator = objective.curvature(weights, Curvature.GGN)
    with pytest.raises(BadAnswerError, match="node 1 holds other numbers of examples"):
        operator.matmat(torch.ones(len(weights), 1, dtype=torch.float64))


def test_a_missing_answer_is_an_error_not_a_smaller_mean() -> None:
    with pytest.raises(MissingAnswerError, match="no answer within 5 s from node 1"):
        objective_with(lambda answer: None).gradients(weights_of(TinyTask()))


@pytest.mark.parametrize(
    ("forget", "says"),
    [(ForgetSet.of_nodes(9), "no node has any"), (ForgetSet.of_nodes(0, 1, 2), "must stay")],
)
def test_nothing_or_everything_cannot_be_forgotten(forget: ForgetSet, says: str) -> None:
    objective = objective_with(lambda answer: answer)
    objective.forget = forget
    with pytest.raises(ForgetSetError, match=says):
        objective.gradients(weights_of(TinyTask()))
