"""Methods on a small network, through Flower messages."""

from __future__ import annotations

from functools import cache
from typing import Literal

import pytest
import torch
from torch import Tensor

from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.federation.training import OnRound
from fedunlearn.flower.simulation import simulate
from fedunlearn.parameters import initial_weights, load
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.settings import TrainingSettings
from fedunlearn.solvers.solution import Status
from fedunlearn.unlearning.cubic_newton import CubicNewton, CubicNewtonSettings
from fedunlearn.unlearning.fine_tune import FineTune, FineTuneSettings
from fedunlearn.unlearning.method import Unlearned, UnlearningMethod
from tests.federations import TinyTask

NODES, LABEL = 4, 1
SETTINGS = TrainingSettings(rounds=40, learning_rate=0.3, weight_decay=1e-3)
FORGET = ForgetSet.of_class(LABEL)


@cache
def trained_model() -> TrainedModel:
    initial = initial_weights(TinyTask().model, seed=3)
    return simulate(TinyTask(), NODES, lambda federation: federation.fit(initial, SETTINGS))


def unlearn(
    method: UnlearningMethod, forget: ForgetSet = FORGET, *, on_round: OnRound | None = None
) -> tuple[Unlearned, int]:
    def body(federation: Federation) -> tuple[Unlearned, int]:
        with federation.measure() as meter:
            unlearned = method.unlearn(trained_model(), federation, forget, on_round=on_round)
        return unlearned, meter.rounds

    return simulate(TinyTask(), NODES, body)


def accuracy(weights: Tensor, part: Part) -> float:
    model, right, count = TinyTask().model(), 0, 0
    load(model, weights)
    for node in range(NODES):
        inputs, targets = TinyTask().data(node)
        index = FORGET.select(part, node, targets)
        right += int((model(inputs[index]).argmax(1) == targets[index]).sum())
        count += len(index)
    return right / count


@pytest.mark.parametrize(
    ("curvature", "left"), [("ggn", 0.5), ("hessian", 0.5), ("hessian-abs", 0.8)]
)
def test_a_class_is_forgotten_and_the_others_are_not(
    curvature: Literal["ggn", "hessian", "hessian-abs"], left: float
) -> None:
    before = trained_model().weights
    assert accuracy(before, Part.FORGET) > 0.85
    path: list[tuple[int, Tensor]] = []
    unlearned, rounds = unlearn(
        CubicNewton(CubicNewtonSettings(curvature=curvature, linearise_at=0.7)),
        on_round=lambda number, weights: path.append((number, weights.clone())),
    )
    assert accuracy(unlearned.weights, Part.FORGET) < left
    assert accuracy(unlearned.weights, Part.RETAIN) > accuracy(before, Part.RETAIN) - 0.05
    spent = [number for number, _ in path]
    assert spent == [*range(3, 12), rounds]  # after each product but the last, and at the end
    assert rounds <= 14
    assert torch.equal(path[-1][1], unlearned.weights)
    details = unlearned.details
    chosen = [c for c in details["candidates"] if c["weight"] == details["weight"]]
    assert len(chosen) == 1
    assert chosen[0]["acceptable"]
    assert details["damping"] == pytest.approx(0.5 * details["weight"] * details["step_norm"])


def test_a_given_weight_asks_for_no_losses() -> None:
    settings = CubicNewtonSettings(weight=0.01, products=6, linearise_at=0.85)
    unlearned, rounds = unlearn(CubicNewton(settings))
    assert rounds == 2 + 6
    assert unlearned.details["candidates"] == []
    one_point, rounds = unlearn(CubicNewton(settings.model_copy(update={"linearise_at": 1.0})))
    assert rounds == 1 + 6
    assert not torch.equal(one_point.weights, unlearned.weights)


def test_a_newton_step_without_a_minimum_leaves_the_model_alone() -> None:
    settings = CubicNewtonSettings(weight=0.0, curvature="hessian", products=33)
    unlearned, _ = unlearn(CubicNewton(settings))
    assert unlearned.status == Status.UNBOUNDED.value
    assert torch.equal(unlearned.weights, trained_model().weights)


def test_more_products_than_dimensions_are_not_asked_for() -> None:
    _, rounds = unlearn(CubicNewton(CubicNewtonSettings(weight=0.1, products=500)))
    assert rounds <= 2 + len(trained_model().weights)


def test_fine_tuning_spends_the_compute_it_is_given() -> None:
    assert FineTune().at_compute(23.1, local_epochs=2).settings.rounds == 12
    fixed = FineTune(FineTuneSettings(rounds=3))
    assert fixed.at_compute(23.1, local_epochs=2) is fixed
    heard: list[int] = []
    _, rounds = unlearn(fixed, on_round=lambda number, weights: heard.append(number))
    assert rounds == 3
    assert heard == [1, 2, 3]
