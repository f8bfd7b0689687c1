"""Rewind on a small network: a piece of the way back, then training on who stays."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import pytest
import torch
from flwr.app import Message
from torch import Tensor

from fedunlearn.evaluation.metrics import js_divergence
from fedunlearn.federation.accounting import Meter
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.federation.training import TrainingPlan
from fedunlearn.flower.client_app import make_client_app
from fedunlearn.flower.server_app import open_federation
from fedunlearn.flower.simulation import simulate
from fedunlearn.parameters import initial_weights, load
from fedunlearn.progress import Silent
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.risk.task import Examples
from fedunlearn.settings import TrainingSettings
from fedunlearn.unlearning.fine_tune import FineTune
from fedunlearn.unlearning.method import Unlearned, UnlearningMethod
from fedunlearn.unlearning.rewind import Rewind, RewindSettings
from tests.federations import TinyTask
from tests.inline_grid import InlineGrid
from tests.removals import pooled

NODES, LEAVER = 4, 3
SETTINGS = TrainingSettings(rounds=40, learning_rate=0.3, weight_decay=1e-3)
FORGET = {
    "node": ForgetSet.of_nodes(LEAVER),
    "samples": ForgetSet.of_samples(0.4, seed=2),
    "class": ForgetSet.of_class(1),
    "class of a node": ForgetSet.of_class(1, on=[LEAVER]),
}
each_kind = pytest.mark.parametrize("kind", FORGET)


class Swapped(TinyTask):
    """The same task, but what is to be forgotten was never what it was."""

    def __init__(self, forget: ForgetSet) -> None:
        super().__init__()
        self.forget = forget

    def data(self, node: int) -> Examples:
        inputs, targets = super().data(node)
        inputs = inputs.clone()
        inputs[self.forget.select(Part.FORGET, node, targets)] *= -50.0
        return inputs, targets


class Hoarded(TinyTask):
    """The same points, but only the node that leaves holds any of class 1."""

    def data(self, node: int) -> Examples:
        inputs, targets = super().data(node)
        theirs = (targets == 1) if node == LEAVER else (targets != 1)
        return inputs[theirs], targets[theirs]


@cache
def trained_model(task: type[TinyTask] = TinyTask) -> TrainedModel:
    return fit(task(), None)


def fit(task: TinyTask, without: ForgetSet | None) -> TrainedModel:
    initial = initial_weights(task.model, seed=3)
    return simulate(task, NODES, lambda f: f.fit(initial, SETTINGS, without=without))


def unlearn(
    method: UnlearningMethod,
    forget: ForgetSet,
    *,
    task: TinyTask | None = None,
    trained: TrainedModel | None = None,
) -> tuple[Unlearned, Meter, list[tuple[int, Tensor]]]:
    path: list[tuple[int, Tensor]] = []

    def body(federation: Federation) -> tuple[Unlearned, Meter]:
        with federation.measure() as meter:
            unlearned = method.unlearn(
                trained or trained_model(),
                federation,
                forget,
                on_round=lambda number, weights: path.append((number, weights.clone())),
            )
        return unlearned, meter

    return *simulate(task or TinyTask(), NODES, body), path


def predictions(task: TinyTask, weights: Tensor, forget: ForgetSet) -> Tensor:
    """Return the probabilities (n_f, 3) of all that is to be forgotten."""
    model = task.model()
    load(model, weights)
    inputs, _ = pooled(task, range(NODES), forget, Part.FORGET)
    return model(inputs).detach().softmax(1)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.01])
@pytest.mark.parametrize("rate", [None, 0.05])
def test_it_is_training_anew_from_part_of_the_way(share: float, rate: float | None) -> None:
    trained, forget = trained_model(), FORGET["node"]
    start = trained.initial + share * (trained.weights - trained.initial)
    plan = TrainingPlan(SETTINGS, 3, 1, SETTINGS.seed, learning_rate=rate, without=forget)
    by_hand = simulate(TinyTask(), NODES, lambda f: f.train(start, plan, label=""))
    settings = RewindSettings(share=share, rounds=3, learning_rate=rate)
    unlearned, meter, path = unlearn(Rewind(settings), forget)
    assert torch.allclose(unlearned.weights, by_hand, rtol=0.0, atol=1e-6)
    assert meter.rounds == 3
    assert [number for number, _ in path] == [1, 2, 3]
    assert torch.equal(path[-1][1], unlearned.weights)


@pytest.mark.parametrize(("task", "kind"), [(TinyTask, "class"), (Hoarded, "node")])
def test_predictions_on_what_left_come_nearer_to_the_retrained_models(
    task: type[TinyTask], kind: str
) -> None:
    forget, trained = FORGET[kind], trained_model(task)
    retrained = predictions(task(), fit(task(), forget).weights, forget)

    def distance(weights: Tensor) -> float:
        return js_divergence(predictions(task(), weights, forget), retrained)

    rewound, _, _ = unlearn(Rewind(), forget, task=task(), trained=trained)
    tuned, _, _ = unlearn(FineTune(), forget, task=task(), trained=trained)
    assert distance(rewound.weights) < 0.6 * distance(trained.weights)
    assert distance(rewound.weights) < 0.6 * distance(tuned.weights)


@each_kind
def test_what_leaves_is_not_trained_on(kind: str) -> None:
    forget = FORGET[kind]
    method = Rewind(RewindSettings(rounds=2))
    as_it_is, _, _ = unlearn(method, forget)
    swapped, _, _ = unlearn(method, forget, task=Swapped(forget))
    assert torch.equal(as_it_is.weights, swapped.weights)


def test_who_leaves_is_asked_nothing() -> None:
    addressed: list[int] = []

    class Watching(InlineGrid):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            messages = list(messages)
            addressed.extend(message.metadata.dst_node_id for message in messages)
            return super().push_messages(messages)

    grid = Watching(make_client_app(TinyTask()), NODES)
    federation = open_federation(grid, NODES, progress=Silent(), deadline_s=10.0)
    addressed.clear()
    Rewind(RewindSettings(rounds=2)).unlearn(trained_model(), federation, FORGET["node"])
    assert sorted(addressed) == [1, 1, 2, 2, 3, 3]  # address = number + 1


def test_it_spends_the_compute_it_is_given() -> None:
    sized = Rewind(RewindSettings(share=0.7)).at_compute(23.1, local_epochs=2)
    assert sized.settings == RewindSettings(share=0.7, rounds=12)
    assert Rewind().at_compute(0.1, local_epochs=2).settings.rounds == 1
    fixed = Rewind(RewindSettings(rounds=3))
    assert fixed.at_compute(23.1, local_epochs=2) is fixed
    retained = sum(len(TinyTask().data(node)[1]) for node in range(NODES) if node != LEAVER)
    _, meter, _ = unlearn(Rewind().at_compute(7.0, local_epochs=2), FORGET["node"])
    assert meter.cost(retained).gradient_equivalents == 8.0
