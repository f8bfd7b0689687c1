"""The baselines without a cubic term, against dense references."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.solvers.solution import Status
from fedunlearn.unlearning.method import Unlearned
from fedunlearn.unlearning.registry import make_method
from tests.federations import TinyTask
from tests.removals import (
    DECAY,
    PlaneTask,
    federation_of,
    mean_objective,
    minimiser,
    pooled,
    trained_on,
)

NODES = range(4)
FORGET = {
    "node": ForgetSet.of_nodes(2),
    "samples": ForgetSet.of_samples(0.25, seed=3),
    "class": ForgetSet.of_class(1),
}
each_kind = pytest.mark.parametrize("kind", FORGET)


@cache
def trained() -> TrainedModel:
    return trained_on(TinyTask(), NODES, stationary=False)


def unlearn(name: str, kind: str, **settings: object) -> Unlearned:
    federation, _ = federation_of(TinyTask(), NODES)
    return make_method(name, settings).unlearn(trained(), federation, FORGET[kind])


@cache
def dense(kind: str) -> tuple[Tensor, Tensor]:
    """Return gradient (d,) and Hessian (d, d) of F_r at w^, from the pooled data."""
    rest = pooled(TinyTask(), NODES, FORGET[kind], Part.RETAIN)
    objective = mean_objective(TinyTask(), rest, DECAY)
    weights = trained().weights
    return torch.func.grad(objective)(weights), torch.func.hessian(objective)(weights)


@each_kind
@pytest.mark.parametrize("damping", [1e-3, 0.05, 3.0])
def test_damped_is_the_damped_newton_step(kind: str, damping: float) -> None:
    gradient, hessian = dense(kind)
    identity = torch.eye(len(gradient), dtype=torch.float64)
    expected = -torch.linalg.solve(hessian + damping * identity, gradient)
    found = unlearn("newton-damped", kind, damping=damping, products=len(gradient))
    step = found.weights - trained().weights
    assert float((step - expected).norm()) <= 1e-8 * float(expected.norm())
    assert found.status == Status.CONVERGED.value
    assert found.details["damping"] == damping
    assert found.details["weight"] == 0.0
    assert found.details["step_norm"] == pytest.approx(float(expected.norm()), rel=1e-8)
    predicted = float(gradient @ expected + 0.5 * expected @ hessian @ expected)
    assert found.details["predicted"] == pytest.approx(predicted, rel=1e-7)
    assert found.details["residual"] < 1e-8


@each_kind
@pytest.mark.parametrize("cutoff", [0.0, 1e-6, 1e-2, 0.1])
def test_pinv_is_the_pseudo_inverse(kind: str, cutoff: float) -> None:
    gradient, hessian = dense(kind)
    expected = -torch.linalg.pinv(hessian, rtol=cutoff, hermitian=True) @ gradient
    found = unlearn("newton-pinv", kind, cutoff=cutoff, products=len(gradient))
    step = found.weights - trained().weights
    assert float((step - expected).norm()) <= 1e-7 * float(expected.norm())
    rest = float((hessian @ expected + gradient).norm() / gradient.norm())
    assert found.details["residual"] == pytest.approx(rest, rel=1e-6, abs=1e-7)
    assert found.status == Status.CONVERGED.value  # more products would change nothing


def test_cutting_eigenvalues_off_shortens_the_step() -> None:
    lengths = [
        unlearn("newton-pinv", "class", cutoff=cutoff, products=33).details["step_norm"]
        for cutoff in (0.0, 1e-2, 0.1, 0.9)
    ]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > 2.0 * lengths[-1]


@pytest.mark.parametrize(
    ("name", "settings"), [("newton-damped", {"damping": 1e-3}), ("newton-pinv", {})]
)
def test_few_products_are_a_status(name: str, settings: dict[str, float]) -> None:
    gradient, hessian = dense("class")
    found = unlearn(name, "class", products=2, **settings)
    assert found.status == Status.BUDGET_SPENT.value
    assert found.details["status"] == "budget_spent"
    assert found.details["products"] == 2
    step = found.weights - trained().weights
    rest = (hessian + settings.get("damping", 0.0) * torch.eye(len(step))) @ step + gradient
    residual = float(rest.norm() / gradient.norm())
    assert found.details["residual"] == pytest.approx(residual, rel=1e-8)
    assert residual > 0.1


@each_kind
def test_ridge_regression_gives_the_retrained_minimiser(kind: str) -> None:
    forget = FORGET["samples" if kind == "class" else kind]  # squares know no classes
    task, model = PlaneTask("ridge"), trained_on(PlaneTask("ridge"), NODES, stationary=True)
    rest = pooled(task, NODES, forget, Part.RETAIN)
    retrained = minimiser(mean_objective(task, rest, DECAY), model.weights)
    federation, _ = federation_of(task, NODES)
    found = make_method("newton-pinv", {"node-weights": "examples"}).unlearn(
        model, federation, forget
    )
    before = float((model.weights - retrained).norm())
    assert before > 1e-3
    assert float((found.weights - retrained).norm()) <= 1e-9 * before
    assert found.status == Status.CONVERGED.value


@pytest.mark.parametrize("name", ["newton-damped", "newton-pinv"])
def test_the_path_has_every_smaller_space(name: str) -> None:
    federation, _ = federation_of(TinyTask(), NODES)
    heard: list[tuple[int, Tensor]] = []
    make_method(name, {"products": 4}).unlearn(
        trained(), federation, FORGET["class"], on_round=lambda n, w: heard.append((n, w.clone()))
    )
    assert [number for number, _ in heard] == [2, 3, 4, 5]
    for (_, weights), products in zip(heard, range(1, 5), strict=True):
        alone = unlearn(name, "class", products=products).weights
        torch.testing.assert_close(weights, alone, rtol=1e-9, atol=1e-11)
