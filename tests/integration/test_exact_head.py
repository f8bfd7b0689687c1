"""Removal from a linear head equals training anew, whatever the sequence, order and transport."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from fedunlearn.errors import FedunlearnError, InputError, NotRecordedError
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.head import FittedHead, head_of, to_rows
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.flower.simulation import simulate
from fedunlearn.lab.run import run_scenario
from fedunlearn.parameters import initial_weights
from fedunlearn.progress import Silent
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.heads import Head, HeadDerivatives, HeadMoments
from fedunlearn.questions.question import Question
from fedunlearn.risk.linear_head import HeadLoss, one_vs_rest_loss, squared_loss
from fedunlearn.risk.task import Loss
from fedunlearn.scenario.loading import LoadedScenario, parse_scenario
from fedunlearn.settings import TrainingSettings
from fedunlearn.testing.federations import in_process
from fedunlearn.unlearning.exact_head import ExactHead
from fedunlearn.unlearning.method import Claim
from fedunlearn.unlearning.registry import make_method
from fedunlearn.unlearning.retrain import Retrain
from tests.federations import TRANSPORTS
from tests.linear_heads import CLASSES, LinearPoints

FloatArray = NDArray[np.float64]

DECAY = 1e-3
RIDGE = TrainingSettings(solver="ridge", weight_decay=DECAY)
LOGISTIC = TrainingSettings(solver="logistic", weight_decay=DECAY)
ONE_VS_REST = TrainingSettings(solver="one-vs-rest", weight_decay=DECAY)
CROSS_ENTROPY = nn.functional.cross_entropy
SOLVERS: dict[str, tuple[Loss, TrainingSettings]] = {
    "ridge": (squared_loss, RIDGE),
    "mean squared error": (lambda o, t: nn.functional.mse_loss(o, one_hot(t)), RIDGE),
    "logistic": (CROSS_ENTROPY, LOGISTIC),
    "one-vs-rest": (one_vs_rest_loss, ONE_VS_REST),
}
FORGET_SETS = (
    ForgetSet.of_records({0: [1, 3], 3: [0]}),
    ForgetSet.of_nodes(2),
    ForgetSet.of_class(1, on=[1]),
    ForgetSet.of_class(0),
    ForgetSet.of_samples(0.2, seed=3),
)


def one_hot(targets: Tensor) -> Tensor:
    return nn.functional.one_hot(targets, CLASSES).double()


def fitted(
    federation: Federation, task: LinearPoints, training: TrainingSettings, method: ExactHead
) -> TrainedModel:
    initial = initial_weights(task.model, seed=3)
    return federation.fit(initial, training, record=method.to_record())


@dataclass
class FromScratch:
    """Ridge in closed form on whatever stays, apart from the code under test."""

    task: LinearPoints
    nodes: int
    gone: list[ForgetSet] = field(default_factory=list)

    def weights(self) -> FloatArray:
        rows, wanted = [], []
        for node in range(self.nodes):
            features, targets = self.task.features(node)
            labels = self.task.data(node)[1]
            stays = torch.ones(len(labels), dtype=torch.bool)
            for forget in self.gone:
                stays &= ~forget.forgotten(node, labels)
            rows.append(features[stays].detach().numpy())
            wanted.append(targets[stays].numpy())
        x, y = np.concatenate(rows), np.concatenate(wanted)
        extended = np.concatenate([x, np.sqrt(DECAY * len(x)) * np.eye(x.shape[1])])
        padded = np.concatenate([y, np.zeros((x.shape[1], y.shape[1]))])
        return np.asarray(np.linalg.lstsq(extended, padded, rcond=None)[0].T)


def distance(found: FloatArray, wanted: FloatArray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def rows_of(federation: Federation, trained: TrainedModel) -> FloatArray:
    return to_rows(head_of(federation.layout, trained.settings), trained.weights)


def test_a_thousand_removals_of_all_kinds_equal_retraining() -> None:
    task, nodes = LinearPoints(squared_loss, bias=True, more=60), 24
    scratch, method = FromScratch(task, nodes), ExactHead()
    generator = np.random.default_rng(1)
    present = {n: list(range(task.more + 5 * n)) for n in range(nodes)}
    with in_process(task, nodes) as federation:
        trained = fitted(federation, task, RIDGE, method)
        worst = 0.0
        for number in range(1000):
            forget, kind = None, number % 100
            if kind == 50 and len(present) > 14:  # ten nodes
                forget = ForgetSet.of_nodes(int(generator.choice(list(present))))
                present.pop(*forget.nodes)
            elif kind == 75 and number < 900:  # nine classes of a node
                node = int(generator.choice(list(present)))
                labels = task.data(node)[1]
                label = int(labels[present[node][0]])
                forget = ForgetSet.of_class(label, on=[node])
                present[node] = [p for p in present[node] if labels[p] != label]
            elif number == 999:  # a class everywhere
                forget = ForgetSet.of_class(2)
            if forget is None:
                node = max(present, key=lambda n: len(present[n]))
                place = present[node].pop(int(generator.integers(len(present[node]))))
                forget = ForgetSet.of_records({node: [place]})
            unlearned = method.unlearn(trained, federation, forget)
            assert unlearned.trained is not None and unlearned.claim is Claim.EXACT
            trained = unlearned.trained
            scratch.gone.append(forget)
            if number % 50 == 49 or number > 995:
                error = distance(rows_of(federation, trained), scratch.weights())
                assert error <= unlearned.details["relative_error"] <= 1e-6
                worst = max(worst, error)
    assert worst <= 1e-9


@settings(max_examples=25, deadline=None)
@given(
    order=st.permutations(range(len(FORGET_SETS))),
    count=st.integers(1, len(FORGET_SETS)),
    policy=st.sampled_from(["stored", "on-departure"]),
    groups=st.sampled_from(["nodes", "classes"]),
    bias=st.booleans(),
)
def test_any_order_and_the_batch_give_one_model(
    order: Sequence[int], count: int, policy: str, groups: str, bias: bool
) -> None:
    task, nodes = LinearPoints(squared_loss, bias=bias), 5
    method = ExactHead(policy=policy, groups=groups)
    scratch = FromScratch(task, nodes, [FORGET_SETS[i] for i in order[:count]])
    with in_process(task, nodes) as federation:
        trained = fitted(federation, task, RIDGE, method)
        for forget in scratch.gone:
            unlearned = method.unlearn(trained, federation, forget)
            assert unlearned.trained is not None
            trained = unlearned.trained
        error = distance(rows_of(federation, trained), scratch.weights())
        assert error <= unlearned.details["relative_error"] <= 1e-8


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_sequence_equals_retraining(solver: str, dtype: torch.dtype) -> None:
    loss, training = SOLVERS[solver]
    task, method = LinearPoints(loss, bias=True, dtype=dtype), ExactHead(tolerance=1e-7)
    with in_process(task, 5) as federation:
        trained, gone = fitted(federation, task, training, method), list[ForgetSet]()
        for forget in FORGET_SETS[:4]:
            unlearned = method.unlearn(trained, federation, forget.following(gone))
            assert unlearned.trained is not None and unlearned.claim is Claim.EXACT
            assert "relative error at most" in unlearned.status
            details = dict(unlearned.details)
            assert json.loads(json.dumps(details, allow_nan=False)) == details
            oracle = Retrain().unlearn(trained, federation, forget.following(gone))
            assert oracle.claim is Claim.EXACT_RETRAIN
            trained, gone = unlearned.trained, [*gone, forget]
            change = (unlearned.weights - oracle.weights).double().norm()
            least = 1e-9 if dtype is torch.float64 else 2e-7
            assert float(change / oracle.weights.double().norm()) <= least


@pytest.mark.parametrize("solver", ["logistic", "one-vs-rest"])
def test_training_reaches_the_minimiser(solver: str) -> None:
    loss, training = SOLVERS[solver]
    task = LinearPoints(loss, bias=True)
    with in_process(task, 4) as federation:
        trained = federation.fit(initial_weights(task.model, 0), training)
        objective = federation.objective(ForgetSet.of_nodes(), weight_decay=DECAY)
        gradient = objective.gradient(trained.weights)
    assert float(gradient.norm()) < 1e-12
    fit = trained.recorded[FittedHead()].value
    assert fit.solution.relative_error < 1e-10


def test_rounds_and_who_answers() -> None:
    task = LinearPoints(squared_loss)
    cases = {
        ("stored", "classes"): (0, 0, 0, 1),
        ("stored", "nodes"): (0, 1, 1, 1),
        ("on-departure", "classes"): (1, 1, 1, 1),
    }
    kinds = (
        ForgetSet.of_nodes(2),
        ForgetSet.of_class(1),
        ForgetSet.of_class(1, on=[3]),
        ForgetSet.of_records({1: [0]}),
    )
    for (policy, groups), rounds in cases.items():
        method = ExactHead(policy=policy, groups=groups)
        with in_process(task, 4) as federation:
            trained = fitted(federation, task, RIDGE, method)
            for forget, expected in zip(kinds, rounds, strict=True):
                with federation.measure() as meter:
                    method.unlearn(trained, federation, forget)
                assert meter.rounds == expected, (policy, groups, str(forget))


@pytest.mark.parametrize("loss", HeadLoss)
def test_answers_are_the_same_over_every_transport(loss: HeadLoss) -> None:
    losses = {
        HeadLoss.SQUARED: squared_loss,
        HeadLoss.CROSS_ENTROPY: CROSS_ENTROPY,
        HeadLoss.ONE_VS_REST: one_vs_rest_loss,
    }
    head = Head(loss, CLASSES, bias=True)
    point = torch.linspace(-1, 1, 21, dtype=torch.float64)
    forget = ForgetSet.of_class(1)
    found = []
    for opened in TRANSPORTS.values():
        reach = opened(LinearPoints(losses[loss], bias=True), 3)
        values = {}
        for number, ask in enumerate((HeadMoments(head, by_label=True), HeadDerivatives(head))):
            none = point.new_empty(0, len(point))
            question = Question("job", number, forget, tuple(Part), point, ask, none)
            for answer in reach.transport.ask(question, reach.nodes, deadline_s=60.0):
                for part, rows in answer.values.items():
                    values[number, answer.node, part] = rows, answer.labels.get(part)
        found.append(values)
    for other in found[1:]:
        assert other.keys() == found[0].keys() and len(other) > 6
        for key, (rows, labels) in found[0].items():
            assert torch.equal(rows, other[key][0]) and labels == other[key][1]


def test_a_flower_simulation_removes_exactly() -> None:
    task, method = LinearPoints(squared_loss), ExactHead()
    scratch = FromScratch(task, 4, [FORGET_SETS[0], FORGET_SETS[1]])

    def body(federation: Federation) -> FloatArray:
        trained = fitted(federation, task, RIDGE, method)
        for forget in scratch.gone:
            unlearned = method.unlearn(trained, federation, forget)
            assert unlearned.trained is not None
            trained = unlearned.trained
        return rows_of(federation, trained)

    assert distance(simulate(task, 4, body), scratch.weights()) < 1e-9


class Wrong(LinearPoints):
    """Networks and losses that have no minimiser to be computed."""

    def __init__(self, how: str) -> None:
        loss: Loss = CROSS_ENTROPY if how == "loss" else squared_loss
        super().__init__(loss, bias=True)
        self.how = how

    def model(self) -> nn.Module:
        model = super().model()
        assert isinstance(model, nn.Sequential)
        if self.how == "two layers":
            model.requires_grad_(True)
        if self.how == "after":
            model.append(nn.Tanh())
        if self.how == "frozen bias":
            nn.init.zeros_(model[1].bias).requires_grad_(False)
        if self.how == "convolution":
            return nn.Sequential(nn.Unflatten(1, (2, 1)), nn.Conv1d(2, 3, 1), nn.Flatten()).double()
        return model


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("two layers", "trains one nn.Linear"),
        ("after", "a layer follows"),
        ("frozen bias", "a part of its linear head is frozen"),
        ("convolution", "trains one nn.Linear"),
        ("loss", "not a multiple of the squared loss"),
    ],
)
def test_other_models_and_losses_are_refused_in_one_line(how: str, says: str) -> None:
    task = Wrong(how)
    with in_process(task, 3) as federation, pytest.raises(FedunlearnError, match=says) as caught:
        federation.fit(initial_weights(task.model, 0), RIDGE)
    assert "\n" not in str(caught.value)


def test_misuse_is_refused_in_one_line() -> None:
    task, method = LinearPoints(squared_loss), ExactHead()
    averaged = TrainingSettings(rounds=1)
    with in_process(task, 3) as federation:
        initial = initial_weights(task.model, 0)
        trained = federation.fit(initial, averaged)
        with pytest.raises(InputError, match="solver = 'averaging' does not reach"):
            method.unlearn(trained, federation, ForgetSet.of_nodes(1))
        posing = TrainedModel(trained.weights, initial, RIDGE)
        with pytest.raises(InputError, match="is not the minimiser"):
            federation.record(posing, method.to_record())
        with pytest.raises(NotRecordedError, match="training recorded no sums"):
            method.unlearn(posing, federation, ForgetSet.of_nodes(1))
        trained = federation.fit(initial, RIDGE, record=method.to_record())
        moved = TrainedModel(trained.weights + 1, initial, RIDGE, trained.recorded)
        with pytest.raises(NotRecordedError, match="belong to another model"):
            method.unlearn(moved, federation, ForgetSet.of_nodes(1))
        once = method.unlearn(trained, federation, ForgetSet.of_nodes(1)).trained
        assert once is not None
        with pytest.raises(InputError, match="has left already"):
            method.unlearn(once, federation, ForgetSet.of_nodes(1))
        flat = TrainingSettings(solver="ridge", weight_decay=0.0)
        everything = federation.fit(initial, flat)  # six inputs, more examples: full rank
        assert torch.isfinite(everything.weights).all()


def test_without_weight_decay_full_rank_is_needed() -> None:
    class Narrow(LinearPoints):
        def data(self, node: int) -> tuple[Tensor, Tensor]:
            inputs, targets = super().data(node)
            return inputs[:1], targets[:1]

    task = Narrow(squared_loss)
    with in_process(task, 3) as federation, pytest.raises(InputError, match="raise weight-decay"):
        federation.fit(
            initial_weights(task.model, 0), TrainingSettings(solver="ridge", weight_decay=0.0)
        )


def test_other_methods_run_beside_it_in_a_scenario(tmp_path: Path) -> None:
    names = ("exact-head", "cubic-newton", "instant-cubic-newton", "auto", "fine-tune")
    scenario = parse_scenario(
        {
            "data": {"name": "digits", "nodes": 4, "limit": 300},
            "model": {"name": "logistic"},
            "training": {"solver": "logistic", "weight-decay": 1e-2},
            "unlearning": {"methods": list(names)},
            "evaluation": {"oracles": 1},
        }
    )
    loaded = LoadedScenario("heads", tmp_path, scenario)
    (request,) = run_scenario(loaded, transport="inline", progress=Silent()).results.requests
    assert set(request.methods) == set(names)
    before = request.trained.weight_distance
    assert request.methods["exact-head"].weight_distance <= 1e-6 * before
    assert request.methods["instant-cubic-newton"].weight_distance < 0.5 * before


def test_methods_that_observe_rounds_are_refused() -> None:
    task = LinearPoints(squared_loss)
    wanted = make_method("fed-eraser", {}).to_record()
    with in_process(task, 3) as federation, pytest.raises(InputError, match="no rounds of averag"):
        federation.fit(initial_weights(task.model, 0), RIDGE, record=wanted)
