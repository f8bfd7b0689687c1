"""Sums of losses, gradients and products over a node's examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian

from fedunlearn.errors import NoCurvatureError, TaskError
from fedunlearn.parameters import ParameterLayout, flatten, load
from fedunlearn.risk.objective import EmpiricalRisk
from fedunlearn.risk.products import Curvature
from fedunlearn.risk.task import Examples, Loss
from tests.cases import RISKS

pytestmark = pytest.mark.slow

COUNT = 23
SEED = 5
CURVATURES = list(Curvature)


def _risk(name: str, *, chunk: int = 2048) -> tuple[EmpiricalRisk, Tensor]:
    """Build a risk and weights other than those of its model."""
    model, examples = RISKS[name].build(SEED, COUNT)
    weights = flatten(RISKS[name].build(SEED + 1, COUNT)[0])
    return EmpiricalRisk(model, RISKS[name].loss, examples, chunk=chunk), weights


def _rows(count: int, dimension: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, dimension, generator=generator, dtype=torch.float64)


def _loaded(name: str, weights: Tensor) -> tuple[nn.Module, Examples]:
    model, examples = RISKS[name].build(SEED, COUNT)
    load(model, weights)
    return model, examples


@pytest.mark.parametrize("name", RISKS)
def test_value_and_gradient_are_those_of_the_summed_loss(name: str) -> None:
    risk, weights = _risk(name)
    model, (inputs, targets) = _loaded(name, weights)
    one_by_one = [
        RISKS[name].loss(model(inputs[i : i + 1]), targets[i : i + 1]) for i in range(COUNT)
    ]
    total = torch.stack(one_by_one).sum()
    trained = [p for p in model.parameters() if p.requires_grad]
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(total, trained)])

    assert len(risk) == COUNT
    assert risk.value(weights) == pytest.approx(float(total.detach()), rel=1e-12)
    torch.testing.assert_close(risk.gradient(weights), gradient, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", RISKS)
def test_differences_of_the_value_confirm_the_gradient_and_of_it_the_hessian(name: str) -> None:
    risk, weights = _risk(name)
    direction = _rows(1, len(weights))[0]
    direction = direction / direction.norm()
    small = 1e-5
    ahead, behind = weights + small * direction, weights - small * direction
    slope = (risk.value(ahead) - risk.value(behind)) / (2.0 * small)
    assert float(risk.gradient(weights) @ direction) == pytest.approx(slope, rel=1e-6, abs=1e-6)

    change = (risk.gradient(ahead) - risk.gradient(behind)) / (2.0 * small)
    product = risk.products(weights, direction[None], Curvature.HESSIAN)[0]
    torch.testing.assert_close(product, change, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", RISKS)
def test_chunks_change_nothing(name: str) -> None:
    whole, weights = _risk(name)
    vectors = _rows(2, len(weights))
    products = {c: whole.products(weights, vectors, c) for c in Curvature}
    for chunk in [*range(1, COUNT + 1), 10 * COUNT]:
        parts, _ = _risk(name, chunk=chunk)
        assert parts.value(weights) == pytest.approx(whole.value(weights), rel=1e-12)
        torch.testing.assert_close(
            parts.gradient(weights), whole.gradient(weights), rtol=1e-11, atol=1e-13
        )
        if chunk in (1, 5, COUNT - 1) or "mlp" in name:
            for curvature, expected in products.items():
                torch.testing.assert_close(
                    parts.products(weights, vectors, curvature), expected, rtol=1e-11, atol=1e-12
                )


def _focal(outputs: Tensor, targets: Tensor) -> Tensor:
    missed = 1.0 - outputs.softmax(1).gather(1, targets[:, None])[:, 0]
    losses = nn.functional.cross_entropy(outputs, targets, reduction="none")
    return (missed.square() * losses).mean()


class _TwoHeads(nn.Module):
    def __init__(self, kind: type) -> None:
        super().__init__()
        self.kind = kind
        self.body = nn.Linear(5, 4)
        self.heads = nn.ModuleDict({"left": nn.Linear(4, 3), "right": nn.Linear(4, 1)})

    def forward(self, inputs: Tensor) -> object:
        hidden = torch.tanh(self.body(inputs))
        outputs = {name: head(hidden) for name, head in self.heads.items()}
        return outputs if self.kind is dict else tuple(outputs.values())


def _two_losses(outputs: Any, targets: Tensor) -> Tensor:
    left, right = outputs.values() if isinstance(outputs, dict) else outputs
    size = right[:, 0] - targets
    return nn.functional.cross_entropy(left, targets) + size.square().mean()


OWN: dict[str, tuple[Callable[[], nn.Module], Loss]] = {
    "focal loss": (lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)), _focal),
    "cosines": (lambda: nn.Linear(5, 3), lambda outputs, targets: outputs.cos().mean()),
    "tuple": (lambda: _TwoHeads(tuple), _two_losses),
    "dict": (lambda: _TwoHeads(dict), _two_losses),
}


@pytest.mark.parametrize(("make", "loss"), OWN.values(), ids=OWN)
def test_any_loss_and_any_outputs_have_a_hessian(make: Callable[[], nn.Module], loss: Loss) -> None:
    torch.manual_seed(0)
    model = make().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 3.0  # sure of its wrong answers, where a focal loss is not convex
    inputs, targets = torch.randn(COUNT, 5).double(), torch.randint(3, (COUNT,))
    risk = EmpiricalRisk(model, loss, (inputs, targets), chunk=7)
    weights = flatten(model)
    layout = ParameterLayout.of(model)

    def whole(point: Tensor) -> Tensor:
        outputs = functional_call(model, layout.unflatten(point), (inputs,))
        return loss(outputs, targets) * COUNT

    identity = torch.eye(len(weights), dtype=torch.float64)
    dense = hessian(whole)(weights)
    products = risk.products(weights, identity, Curvature.HESSIAN)
    torch.testing.assert_close(products, dense, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(products, products.T, rtol=1e-10, atol=1e-11)
    with pytest.raises(NoCurvatureError, match="curvature = 'hessian'"):
        risk.products(weights, identity, Curvature.GGN)


@pytest.mark.parametrize("name", RISKS)
def test_sums_add_up_over_a_split_of_the_examples(name: str) -> None:
    whole, weights = _risk(name)
    vectors = _rows(2, len(weights))
    parts = [
        EmpiricalRisk(whole.model, whole.loss, (whole.inputs[cut], whole.targets[cut]))
        for cut in (slice(0, 1), slice(1, 9), slice(9, COUNT))
    ]
    assert sum(part.value(weights) for part in parts) == pytest.approx(whole.value(weights))
    gradients = sum((part.gradient(weights) for part in parts), torch.zeros_like(weights))
    torch.testing.assert_close(gradients, whole.gradient(weights), rtol=1e-11, atol=1e-12)
    for curvature in CURVATURES:
        products = sum(
            (part.products(weights, vectors, curvature) for part in parts),
            torch.zeros_like(vectors),
        )
        torch.testing.assert_close(
            products, whole.products(weights, vectors, curvature), rtol=1e-11, atol=1e-12
        )


@pytest.mark.parametrize("name", RISKS)
def test_the_model_is_a_form_whose_own_numbers_neither_count_nor_change(name: str) -> None:
    risk, weights = _risk(name)
    vectors = _rows(2, len(weights))
    given = weights.clone()

    def everything() -> list[Tensor]:
        return [
            torch.tensor(risk.value(weights)),
            risk.gradient(weights),
            *(risk.products(weights, vectors, curvature) for curvature in CURVATURES),
        ]

    state = {key: value.clone() for key, value in risk.model.state_dict().items()}
    before = everything()
    for key, value in risk.model.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert all(p.grad is None for p in risk.model.parameters())
    assert torch.equal(weights, given)

    load(risk.model, torch.full_like(weights, 7.0))
    for one, other in zip(before, everything(), strict=True):
        assert torch.equal(one, other)


def test_frozen_parameters_do_not_count_but_act() -> None:
    risk, weights = _risk("partly frozen, cross-entropy")
    # BatchNorm 2 x 4, shared 4 x 4 + 4, head 3 x 4 + 3; frozen 4 x 5 + 4 and buffers left out.
    assert risk.layout.dimension == len(weights) == risk.gradient(weights).numel() == 43
    before = risk.value(weights)
    frozen = risk.model.get_submodule("frozen")
    assert isinstance(frozen, nn.Linear)
    with torch.no_grad():
        frozen.weight += 1.0
    assert risk.value(weights) != pytest.approx(before, rel=1e-3)


def test_a_model_without_anything_to_train_is_refused() -> None:
    model, examples = RISKS["linear, mse"].build(SEED, COUNT)
    with pytest.raises(TaskError, match="no parameter that requires a gradient"):
        EmpiricalRisk(model.requires_grad_(False), RISKS["linear, mse"].loss, examples)
