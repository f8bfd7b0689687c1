"""Models of several dtypes, with parts that stay as they are, and on another device."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fedunlearn.parameters import ParameterLayout, flatten, load
from fedunlearn.risk.local_rules import LocalPlan
from fedunlearn.risk.local_training import train_locally
from fedunlearn.risk.objective import EmpiricalRisk
from fedunlearn.risk.products import Curvature
from fedunlearn.risk.task import Examples
from tests.cases import RISKS

COUNT = 20
PLAN = LocalPlan(epochs=2, batch_size=5, learning_rate=0.1, weight_decay=0.01, order=(1,))
LOSS = nn.functional.cross_entropy


class _Mixed(nn.Module):
    """A float32 layer, then one of another dtype, then a float32 one."""

    def __init__(self, inner: torch.dtype) -> None:
        super().__init__()
        self.first = nn.Linear(5, 4)
        self.inner = nn.Linear(4, 4).to(inner)
        self.last = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(inputs.to(self.first.weight)))
        hidden = torch.tanh(self.inner(hidden.to(self.inner.weight)))
        outputs: Tensor = self.last(hidden.to(self.last.weight))
        return outputs


class _Adapted(nn.Module):
    """A frozen half-precision base with buffers, and a small trainable adapter beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(5, 6).to(torch.bfloat16).requires_grad_(False)
        self.norm = nn.BatchNorm1d(6).requires_grad_(False)
        self.down = nn.Linear(5, 1, bias=False)
        self.up = nn.Linear(1, 6, bias=False)
        self.head = nn.Linear(6, 3).requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.base(inputs.to(torch.bfloat16)).float() + self.up(self.down(inputs))
        outputs: Tensor = self.head(torch.tanh(self.norm(hidden)))
        return outputs


def _built(make: Callable[[], nn.Module]) -> tuple[nn.Module, Examples]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = make().eval()
        return model, (torch.randn(COUNT, 5), torch.randint(3, (COUNT,)))


def _everything(risk: EmpiricalRisk, weights: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(3, len(weights), generator=generator, dtype=torch.float64).to(weights)
    results = {
        curvature.value: risk.products(weights, vectors, curvature) for curvature in Curvature
    }
    results["gradient"] = risk.gradient(weights)
    return results


def _relative(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).norm() / other.double().norm())


# Rounding of the inner layer's dtype, and of float32 where that is the coarser.
@pytest.mark.parametrize(
    ("inner", "flat", "rounding"),
    [
        (torch.float64, torch.float64, 1e-5),
        (torch.float16, torch.float32, 1e-2),
        (torch.bfloat16, torch.float32, 6e-2),
    ],
    ids=str,
)
def test_parts_of_several_dtypes_are_differentiated_in_their_own(
    inner: torch.dtype, flat: torch.dtype, rounding: float
) -> None:
    model, examples = _built(lambda: _Mixed(inner))
    layout = ParameterLayout.of(model)
    weights = flatten(model)
    assert layout.dtype == weights.dtype == flat
    assert [part.dtype for part in layout.unflatten(weights).values()] == [
        p.dtype for p in model.parameters()
    ]
    load(model, weights)
    assert torch.equal(flatten(model), weights)

    risk = EmpiricalRisk(model, LOSS, examples, chunk=7)
    reference, _ = _built(lambda: _Mixed(torch.float64))
    reference = reference.double()
    load(reference, weights.double())
    exact = EmpiricalRisk(reference, LOSS, examples)
    expected = _everything(exact, weights.double())
    assert risk.value(weights) == pytest.approx(exact.value(weights.double()), rel=rounding)
    for name, result in _everything(risk, weights).items():
        assert result.dtype == flat, name
        assert _relative(result, expected[name]) < rounding, name

    end = train_locally(model, LOSS, examples, weights, PLAN)
    assert end.dtype == flat
    goal = train_locally(reference, LOSS, examples, weights.double(), PLAN)
    assert _relative(end - weights, goal - weights.double()) < rounding * 2.0


def test_only_the_adapter_of_a_frozen_base_counts_and_changes() -> None:
    model, examples = _built(_Adapted)
    assert ParameterLayout.of(model).names == ("down.weight", "up.weight")
    weights = flatten(model)
    assert weights.shape == (11,)
    fixed = {
        name: value.clone()
        for name, value in model.state_dict().items()
        if not name.startswith(("down", "up"))
    }
    assert len(fixed) == 9

    risk = EmpiricalRisk(model, LOSS, examples)
    for name, result in _everything(risk, weights).items():
        assert result.shape[-1] == 11, name
        assert float(result.abs().max()) > 0.0, name
    end = train_locally(model, LOSS, examples, weights, PLAN)
    assert end.shape == (11,)
    assert float((end - weights).norm()) > 1e-3
    for name, value in fixed.items():
        assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.parametrize("name", ["mlp, cross-entropy", "cnn, cross-entropy", "tied, mse"])
def test_weights_of_another_dtype_give_results_in_it(name: str) -> None:
    """A server may count in float64 while the model computes in float32."""
    case = RISKS[name]
    model, (inputs, targets) = case.build(1, COUNT)
    model = model.float()
    examples = inputs.float(), targets.float() if targets.is_floating_point() else targets
    risk = EmpiricalRisk(model, case.loss, examples, chunk=7)
    weights = flatten(model)
    narrow, wide = _everything(risk, weights), _everything(risk, weights.double())
    for what, result in wide.items():
        assert (narrow[what].dtype, result.dtype) == (torch.float32, torch.float64)
        assert _relative(narrow[what], result) < 1e-5, what
    assert risk.value(weights.double()) == risk.value(weights)

    short = train_locally(model, case.loss, examples, weights, PLAN)
    long = train_locally(model, case.loss, examples, weights.double(), PLAN)
    assert long.dtype == torch.float64
    assert torch.equal(long, short.double())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("name", ["mlp, cross-entropy", "rectified cnn, cross-entropy"])
def test_a_model_on_a_gpu_answers_where_the_weights_lie(name: str) -> None:
    case = RISKS[name]
    model, (inputs, targets) = case.build(1, COUNT)
    model, examples = model.float(), (inputs.float(), targets)
    weights = flatten(model)
    on_cpu = EmpiricalRisk(model, case.loss, examples)
    expected = _everything(on_cpu, weights)
    value = on_cpu.value(weights)
    end = train_locally(model, case.loss, examples, weights, PLAN)

    load(model, weights)
    model = model.cuda()
    assert torch.equal(flatten(model), weights)
    assert flatten(model).device.type == "cpu"
    on_gpu = EmpiricalRisk(model, case.loss, examples, chunk=7)
    assert on_gpu.value(weights) == pytest.approx(value, rel=1e-5)
    for what, result in _everything(on_gpu, weights).items():
        assert result.device.type == "cpu"
        assert _relative(result, expected[what]) < 1e-4, what
    kept = on_gpu.curvature(weights, Curvature.GGN, budget=2**30)
    vector = torch.ones(1, len(weights))
    assert torch.equal(kept.products(vector), kept.products(vector))
    there = train_locally(model, case.loss, examples, weights, PLAN)
    assert there.device.type == "cpu"
    assert _relative(there, end) < 1e-4
    assert on_gpu.gradient(weights.cuda()).is_cuda
