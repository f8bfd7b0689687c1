"""A run that was killed goes on in a new one, from the last finished round, to the same result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedunlearn.errors import JobError
from fedunlearn.federation.accounting import MeterStack
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.journal import Journal
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.federation.transport.inline import InlineTransport
from fedunlearn.flower.client_app import make_client_app
from fedunlearn.flower.server_app import open_federation
from fedunlearn.node.node import TaskNode
from fedunlearn.parameters import initial_weights
from fedunlearn.progress import Silent
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.questions.question import Answer, Question
from fedunlearn.settings import TrainingSettings
from fedunlearn.unlearning.cubic_newton import CubicNewton
from tests.federations import TinyTask
from tests.inline_grid import InlineGrid

NODES = 3
FORGET = ForgetSet.of_nodes(1)


class Killed(BaseException):
    """As a signal would, in the middle of a round."""


class Fragile(InlineTransport):
    """Is killed after so many answers."""

    def __init__(self, meters: MeterStack, answers: int) -> None:
        super().__init__({n: TaskNode(TinyTask(), n) for n in range(NODES)}, meters)
        self.left = answers
        self.asked: list[int] = []

    def ask(
        self, question: Question, nodes: Sequence[int], /, *, deadline_s: float
    ) -> Iterator[Answer]:
        self.asked.append(question.round)
        for answer in super().ask(question, nodes, deadline_s=deadline_s):
            self.left -= 1
            if self.left < 0:
                raise Killed
            yield answer


def federation(folder: Path | None, answers: int = 10**6) -> tuple[Federation, Fragile]:
    meters = MeterStack()
    transport = Fragile(meters, answers)
    made = Federation(
        examples={n: len(TinyTask().data(n)[1]) for n in range(NODES)},
        transport=transport,
        trainer=None,  # type: ignore[arg-type]  # nothing is trained here
        meters=meters,
        journal=Journal(folder) if folder else None,
    )
    return made, transport


def trained(seed: int = 0) -> TrainedModel:
    weights = initial_weights(TinyTask().model, seed)
    return TrainedModel(weights + 0.3, weights, TrainingSettings())


@pytest.fixture(scope="module")
def undisturbed() -> tuple[torch.Tensor, int, float]:
    made, transport = federation(None)
    with made.measure() as meter:
        weights = CubicNewton().unlearn(trained(), made, FORGET).weights
    return weights, len(transport.asked), meter.example_gradients


@pytest.mark.parametrize("answers", [0, 1, 2, 3, 4, 8, 13, 20])
def test_a_killed_job_ends_in_the_same_weights_to_the_last_bit(
    tmp_path: Path, answers: int, undisturbed: tuple[torch.Tensor, int, float]
) -> None:
    first, transport = federation(tmp_path, answers)
    with pytest.raises(Killed):
        CubicNewton().unlearn(trained(), first, FORGET)
    finished = transport.asked[:-1]
    second, transport = federation(tmp_path)
    with second.measure() as meter:
        weights = CubicNewton().unlearn(trained(), second, FORGET).weights
    expected, rounds, compute = undisturbed
    assert torch.equal(weights, expected)
    assert not set(transport.asked) & set(finished)  # nobody is asked twice
    assert len(transport.asked) + len(finished) == rounds == meter.rounds
    assert meter.example_gradients == pytest.approx(compute)
    assert all(path.suffix == ".safetensors" for path in tmp_path.iterdir())


def test_a_job_that_is_done_asks_nobody(tmp_path: Path) -> None:
    for asks in (True, False):
        made, transport = federation(tmp_path)
        CubicNewton().unlearn(trained(), made, FORGET)
        assert bool(transport.asked) is asks


def other_cohort(made: Federation) -> Federation:
    examples = {n: count for n, count in made.examples.items() if n != 2}
    return replace(made, examples=examples)


@pytest.mark.parametrize("what", ["model", "cohort", "forget set"])
def test_a_folder_of_another_job_is_refused(tmp_path: Path, what: str) -> None:
    made, _ = federation(tmp_path)
    CubicNewton().unlearn(trained(), made, FORGET)
    again, transport = federation(tmp_path)
    if what == "cohort":
        again = other_cohort(again)
    forget = ForgetSet.of_nodes(0) if what == "forget set" else FORGET
    with pytest.raises(JobError, match="is of another job, model, cohort or scenario"):
        CubicNewton().unlearn(trained(1 if what == "model" else 0), again, forget)
    assert transport.asked == []


def test_a_file_that_was_cut_short_is_named(tmp_path: Path) -> None:
    made, _ = federation(tmp_path)
    CubicNewton().unlearn(trained(), made, FORGET)
    path = min(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:-10])
    again, _ = federation(tmp_path)
    with pytest.raises(JobError, match=f"{path.name} cannot be read; delete it"):
        CubicNewton().unlearn(trained(), again, FORGET)


def test_training_goes_on_after_the_last_finished_round(tmp_path: Path) -> None:
    settings = TrainingSettings(rounds=5, learning_rate=0.1)
    start = initial_weights(TinyTask().model, 1)

    def fit(
        folder: Path | None, killed_after: int | None = None
    ) -> tuple[torch.Tensor, float, int]:
        heard = 0

        class Counting(Silent):
            def advance(self) -> None:
                nonlocal heard
                heard += 1
                if heard == killed_after:
                    raise Killed

        made = open_federation(
            InlineGrid(make_client_app(TinyTask()), NODES),
            NODES,
            progress=Counting(),
            journal=Journal(folder) if folder else None,
        )
        with made.measure() as meter:
            weights = made.fit(start, settings).weights
        return weights, meter.example_gradients, meter.rounds

    with pytest.raises(Killed):
        fit(tmp_path, killed_after=3)
    resumed, compute, rounds = fit(tmp_path)
    expected, whole, all_rounds = fit(None)
    assert torch.equal(resumed, expected)
    assert (compute, rounds) == (pytest.approx(whole), all_rounds)
    with pytest.raises(JobError, match="is of another job, model, cohort or scenario"):
        made = open_federation(
            InlineGrid(make_client_app(TinyTask()), NODES),
            NODES,
            progress=Silent(),
            journal=Journal(tmp_path),
        )
        made.fit(start, settings, without=FORGET)
