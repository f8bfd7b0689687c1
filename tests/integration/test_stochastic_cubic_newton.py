"""Cubic steps from samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.kinds import Gradient, Products
from fedunlearn.questions.question import Sample
from fedunlearn.solvers.cubic import CubicSubproblem
from fedunlearn.solvers.dual import DualCubicSolver
from fedunlearn.solvers.linear_operator import DenseOperator
from fedunlearn.solvers.solution import Status
from fedunlearn.unlearning.method import Unlearned
from fedunlearn.unlearning.stochastic_cubic_newton import StochasticCubicNewton
from tests.federations import TRANSPORTS, TinyTask
from tests.removals import (
    DECAY,
    RecordingTransport,
    federation_of,
    mean_objective,
    minimiser,
    pooled,
    trained_on,
)

NODES = range(4)
FORGET = ForgetSet.of_nodes(2)


@cache
def trained() -> TrainedModel:
    return trained_on(TinyTask(), NODES, stationary=False)


def retained_objective() -> Callable[[Tensor], Tensor]:
    return mean_objective(TinyTask(), pooled(TinyTask(), NODES, FORGET, Part.RETAIN), DECAY)


def unlearn(
    model: TrainedModel | None = None, *, transport: str = "inline", **settings: object
) -> tuple[Unlearned, RecordingTransport]:
    federation, listening = federation_of(TinyTask(), NODES, transport=transport)
    table = {name.replace("_", "-"): value for name, value in settings.items()}
    method = StochasticCubicNewton(StochasticCubicNewton.settings_type.model_validate(table))
    return method.unlearn(model or trained(), federation, FORGET), listening


@pytest.mark.parametrize("conjugate", [False, True])
@pytest.mark.parametrize("weight", [0.1, 1.0, 30.0])
def test_with_all_examples_and_many_products_it_is_the_cubic_step(
    weight: float, conjugate: bool
) -> None:
    found, _ = unlearn(
        weight=weight,
        conjugate=conjugate,
        steps=1,
        products=600,
        product_share=1.0,
        gradient_share=1.0,
    )
    weights, objective = trained().weights, retained_objective()
    problem = CubicSubproblem(
        DenseOperator(torch.func.hessian(objective)(weights)),
        torch.func.grad(objective)(weights),
        weight,
    )
    best = DualCubicSolver().solve(problem, rtol=0.0, max_products=len(weights))
    (step,) = found.details["steps"]
    assert step["predicted"] == pytest.approx(best.predicted, rel=1e-3)
    moved = found.weights - weights
    assert float((moved - best.step).norm()) <= 0.03 * float(best.step.norm())
    assert step["status"] == "converged"
    assert found.status == Status.CONVERGED.value
    assert found.details["step_norm"] == pytest.approx(float(moved.norm()), rel=1e-10)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.25, 1.0)])
def test_it_lowers_the_objective_of_what_stays(shares: tuple[float, float]) -> None:
    """From half the way to w^: on average over the samples, most of what there is to gain."""
    objective = retained_objective()
    half = replace(trained(), weights=trained().interpolated(0.5))
    before = float(objective(half.weights))
    gain = before - float(objective(minimiser(objective, trained().weights)))
    changes = []
    for seed in range(12):
        found, _ = unlearn(half, seed=seed, product_share=shares[0], gradient_share=shares[1])
        changes.append(float(objective(found.weights)) - before)
    assert sum(changes) / len(changes) < -0.8 * gain
    assert len(set(changes)) == len(changes)  # every seed is another sample


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_it_is_repeatable(transport: str) -> None:
    settings = {"product_share": 0.5, "gradient_share": 0.5, "seed": 4}
    first, _ = unlearn(**settings)
    again, _ = unlearn(transport=transport, **settings)
    if transport == "inline":
        assert torch.equal(first.weights, again.weights)
    torch.testing.assert_close(first.weights, again.weights, rtol=1e-8, atol=1e-9)
    other, _ = unlearn(**(settings | {"seed": 5}))
    assert float((other.weights - first.weights).norm()) > 1e-3


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_rounds_samples_and_who_is_asked(transport: str) -> None:
    steps, products = 3, 4
    found, listening = unlearn(
        transport=transport, steps=steps, products=products, gradient_share=0.5, seed=7
    )
    assert found.details["rounds"] == len(listening.heard) <= steps * (1 + products)
    assert listening.asked == {0, 1, 3}
    spent = [step["products"] for step in found.details["steps"]]
    assert len(spent) == steps
    assert len(listening.heard) == steps + sum(spent)
    numbers = iter(listening.heard)
    for number, count in enumerate(spent):
        gradient, _ = next(numbers)
        assert gradient.ask == Gradient()
        assert gradient.sample == Sample(0.5, seed=7 + number)
        for _ in range(count):
            product, _ = next(numbers)
            assert isinstance(product.ask, Products)
            assert product.sample == Sample(0.25, seed=7 + number)
            assert torch.equal(product.point, gradient.point)


def test_the_path_is_told_after_every_step() -> None:
    federation, _ = federation_of(TinyTask(), NODES)
    heard: list[tuple[int, Tensor]] = []
    found = StochasticCubicNewton().unlearn(
        trained(), federation, FORGET, on_round=lambda n, w: heard.append((n, w.clone()))
    )
    rounds = [number for number, _ in heard]
    assert len(heard) == 3
    assert rounds == sorted(rounds)
    assert rounds[-1] == found.details["rounds"]
    assert torch.equal(heard[-1][1], found.weights)
    assert torch.equal(trained().weights, trained_on(TinyTask(), NODES, stationary=False).weights)
