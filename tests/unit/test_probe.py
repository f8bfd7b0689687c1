"""What cannot be differentiated is refused before a product is formed, with a remedy."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fedunlearn.errors import (
    EmptyNodeError,
    FedunlearnError,
    InputError,
    NonFiniteError,
    NotDeterministicError,
    TaskError,
)
from fedunlearn.risk.objective import EmpiricalRisk
from fedunlearn.risk.task import Examples, Loss

MSE: Loss = nn.functional.mse_loss


class _Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.linear(inputs)
        return outputs + torch.randn_like(outputs) if self.training else outputs


class _FunctionalDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.linear(nn.functional.dropout(inputs, 0.5, self.training))
        return outputs


def _with(layer: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(4, 4), nn.Sequential(layer, nn.Tanh()), nn.Linear(4, 2))


def _in_image(*layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Unflatten(1, (1, 2, 2)), *layers, nn.Flatten(), nn.Linear(4, 2))


RANDOM = {
    "dropout": (_with(nn.Dropout(0.1)), "layer '1.0' \\(Dropout\\).*use weight decay.*eval\\(\\)"),
    "dropout of channels": (
        _in_image(nn.Dropout2d(0.1)),
        "layer '1' \\(Dropout2d\\).*use weight decay.*eval\\(\\)",
    ),
    "batch norm": (
        _with(nn.BatchNorm1d(4)),
        "layer '1.0' \\(BatchNorm1d\\) in training mode.*use GroupNorm.*eval\\(\\)",
    ),
    "batch norm of images": (
        _in_image(nn.BatchNorm2d(1)),
        "layer '1' \\(BatchNorm2d\\) in training mode.*use GroupNorm.*eval\\(\\)",
    ),
    "noise in forward": (_Noisy, "two different losses.*random numbers in forward.*eval\\(\\)"),
    "functional dropout": (_FunctionalDropout, "two different losses.*random numbers in forward"),
}


def _examples(count: int = 20) -> Examples:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(count, 4, generator=generator, dtype=torch.float64),
        torch.randn(count, 2, generator=generator, dtype=torch.float64),
    )


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("build, message", RANDOM.values(), ids=RANDOM)
def test_a_model_that_draws_or_mixes_is_refused_in_training_mode(
    build: Callable[[], nn.Module], message: str
) -> None:
    model = build().double().train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(NotDeterministicError, match=message) as refusal:
        EmpiricalRisk(model, MSE, _examples())
    assert "\n" not in str(refusal.value)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize("build", [build for build, _ in RANDOM.values()], ids=RANDOM)
def test_the_same_model_passes_in_eval_mode(build: Callable[[], nn.Module]) -> None:
    model = build().double().eval()
    risk = EmpiricalRisk(model, MSE, _examples())
    weights = torch.zeros(risk.layout.dimension, dtype=torch.float64)
    _, targets = _examples()
    assert risk.value(weights) == pytest.approx(0.5 * float((targets**2).sum()))


@pytest.mark.parametrize(
    "layer", [nn.Dropout(0.0), nn.GroupNorm(2, 4), nn.LayerNorm(4)], ids=lambda layer: str(layer)
)
def test_harmless_layers_pass_in_training_mode(layer: nn.Module) -> None:
    model = _with(layer)().double().train()
    assert len(EmpiricalRisk(model, MSE, _examples())) == 20
    assert model.training


LOSSES = {
    "mse, sum": (lambda o, t: nn.functional.mse_loss(o, t, reduction="sum"), "is not the mean"),
    "mse, none": (
        lambda o, t: nn.functional.mse_loss(o, t, reduction="none"),
        "returns shape \\(16, 2\\)",
    ),
    "bce, sum": (
        lambda o, t: nn.functional.binary_cross_entropy_with_logits(
            o, t.sigmoid(), reduction="sum"
        ),
        "is not the mean",
    ),
    "one number an example": (lambda o, t: ((o - t) ** 2).mean(1), "returns shape \\(16,\\)"),
    "mean over a fixed count": (lambda o, t: ((o - t) ** 2).sum() / 20, "is not the mean"),
}


@pytest.mark.parametrize("loss, message", LOSSES.values(), ids=LOSSES)
def test_a_loss_that_is_no_mean_is_refused(loss: Loss, message: str) -> None:
    with pytest.raises(TaskError, match=f"loss: {message}.*reduction='mean'"):
        EmpiricalRisk(nn.Linear(4, 2).double(), loss, _examples())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_inputs_that_are_not_finite_are_refused(bad: float) -> None:
    inputs, targets = _examples()
    inputs[17, 2] = bad  # beyond the examples of the probe
    with pytest.raises(NonFiniteError, match="data: inputs: 1 of 80 numbers"):
        EmpiricalRisk(nn.Linear(4, 2).double(), MSE, (inputs, targets))


@pytest.mark.parametrize(
    "inputs, targets, error, message",
    [
        (0, 0, EmptyNodeError, "no examples; a node needs at least one"),
        (3, 2, TaskError, "3 inputs but 2 targets"),
        (0, 2, TaskError, "0 inputs but 2 targets"),
    ],
)
def test_missing_examples_are_refused(
    inputs: int, targets: int, error: type[FedunlearnError], message: str
) -> None:
    whole = _examples()
    with pytest.raises(error, match=message) as refusal:
        EmpiricalRisk(nn.Linear(4, 2).double(), MSE, (whole[0][:inputs], whole[1][:targets]))
    assert type(refusal.value) is error
    assert isinstance(refusal.value, InputError)


def test_one_example_is_enough() -> None:
    assert len(EmpiricalRisk(nn.Linear(4, 2).double(), MSE, _examples(1))) == 1


def test_integer_inputs_are_accepted() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2)).double()
    tokens = torch.tensor([[0, 1], [2, 3], [4, 0]])
    targets = torch.zeros(3, 2, dtype=torch.float64)
    risk = EmpiricalRisk(model, MSE, (tokens, targets))
    assert risk.value(torch.zeros(risk.layout.dimension, dtype=torch.float64)) == 0.0
