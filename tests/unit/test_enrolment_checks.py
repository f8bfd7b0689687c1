"""What cannot work is said when nodes enrol, before training, for whatever method."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedunlearn import simulate
from fedunlearn.errors import (
    FedunlearnError,
    ModelDiffersError,
    NodeFailedError,
    NonFiniteError,
    NotDeterministicError,
    NotDifferentiableError,
    TaskError,
)
from fedunlearn.federation.federation import Federation
from fedunlearn.risk.task import Examples, Loss
from tests.federations import TinyTask
from tests.unsound_models import Keeper

pytestmark = pytest.mark.slow

NODES = 3


def no_body(federation: Federation) -> None:
    raise AssertionError("nothing may be trained")


class With(TinyTask):
    """TinyTask with another model, loss or data."""

    def __init__(
        self,
        model: Callable[[], nn.Module] | None = None,
        data: Callable[[Examples], Any] | None = None,
        loss: Loss | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(dtype)
        self.make, self.change = model, data
        if loss is not None:
            self.loss = loss

    def model(self) -> nn.Module:
        return self.make() if self.make else super().model()

    def data(self, node: int) -> Examples:
        examples = super().data(node)
        return self.change(examples) if self.change else examples  # type: ignore[no-any-return]


def net(layer: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(2, 4), layer(), nn.Linear(4, 3))


class Held(nn.Module):
    """A buffer, frozen weights or an attribute beside weights that are trained."""

    def __init__(self, how: str, draw: Callable[[], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 4)
        match how:
            case "buffer":
                self.register_buffer("held", draw())
            case "buffer that is not saved":
                self.register_buffer("held", draw(), persistent=False)
            case "frozen":
                self.held = nn.Parameter(draw(), requires_grad=False)
            case _:
                self.held = [float(number) for number in draw()]  # type: ignore[assignment]

    def forward(self, inputs: Tensor) -> Tensor:
        held = torch.as_tensor(self.held, dtype=inputs.dtype)
        return torch.cos(self.layer(inputs) * held)


class Wrong(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = Keeper.apply(inputs)
        return outputs


class Forks(nn.Module):
    """Draws, and puts the generator back."""

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.random.fork_rng():
            return inputs + torch.rand_like(inputs)


class Caches(nn.Module):
    """Computes something of its weights the first time, and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.kept: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = 2.0 * self.layer.weight.detach()
        return torch.tanh(inputs @ self.kept.T) + self.layer.bias


class Forces(nn.Module):
    """Differentiates inside of forward."""

    def __init__(self, *, enabled: bool) -> None:
        super().__init__()
        self.layer, self.enabled = nn.Linear(4, 4), enabled

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.enabled or torch.is_grad_enabled()):
            at = inputs if inputs.requires_grad else inputs.detach().requires_grad_()
            energy = torch.tanh(self.layer(at)).square().sum()
            (force,) = torch.autograd.grad(energy, at, create_graph=True)
            return force


class OfFunctions(nn.Module):
    """Uses torch.func in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        def energy(one: Tensor) -> Tensor:
            return torch.tanh(self.layer(one)).square().sum()

        outputs: Tensor = torch.func.vmap(torch.func.grad(energy))(inputs)
        return outputs


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4, dtype=torch.complex64))

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs.to(self.weight) @ self.weight).abs()


class Root(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + (inputs * 0.0).abs().sqrt()


def normal() -> Tensor:
    return torch.randn(4)


def of_numpy() -> Tensor:
    return torch.from_numpy(np.random.standard_normal(4)).float()


def of_python() -> Tensor:
    return torch.tensor([random.gauss(0.0, 1.0) for _ in range(4)])


def seeded() -> Tensor:
    return torch.randn(4, generator=torch.Generator().manual_seed(3))


def forked() -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.randn(4)


MODELS: dict[str, tuple[Callable[[], nn.Module], type[FedunlearnError], str]] = {
    "dropout": (net(lambda: nn.Dropout(0.1)), NotDeterministicError, "layer '1' .Dropout."),
    "BatchNorm": (net(lambda: nn.BatchNorm1d(4)), NotDeterministicError, "use GroupNorm"),
    "RReLU": (net(nn.RReLU), NotDeterministicError, "layer '1' .RReLU. draws"),
    "draws in secret": (net(Forks), NotDeterministicError, "other results under another seed"),
    "a stale cache": (net(Caches), TaskError, "keeps what it computed from earlier weights"),
    "forces": (
        net(lambda: Forces(enabled=False)),
        TaskError,
        "layer '1' .Forces. differentiates inside of forward.*torch.enable_grad",
    ),
    "complex weights": (net(Complex), TaskError, "complex weights; hold their real and imaginary"),
    "no numbers": (
        lambda: net(nn.Tanh)().to("meta"),
        TaskError,
        "layer '0' .Linear. has weights on the meta device",
    ),
    "sparse gradients": (
        lambda: nn.Sequential(nn.Embedding(9, 3, sparse=True), nn.Flatten(), nn.Linear(6, 3)),
        TaskError,
        "layer '0' .Embedding. has sparse gradients.*leave sparse=True out",
    ),
    "a wrong function": (net(Wrong), NotDifferentiableError, "Keeper; let backward use"),
    "Hardsigmoid": (net(nn.Hardsigmoid), NotDifferentiableError, "layer '1' .Hardsigmoid."),
    "a root at 0": (net(Root), NonFiniteError, "small number under the root"),
    "script": (lambda: torch.jit.script(net(nn.Tanh)()), TaskError, "before torch.jit.script"),
    "frozen as a whole": (
        lambda: net(nn.Tanh)().requires_grad_(False),
        TaskError,
        "no parameter that requires a gradient",
    ),
    "no module": (lambda: "net", TaskError, "model.. returns str; return a torch.nn.Module"),  # type: ignore[return-value,dict-item]
    "fails": (lambda: {}["net"], NodeFailedError, "KeyError in the task's own code: model"),
    "shapes that do not fit": (
        lambda: nn.Linear(7, 3),
        NodeFailedError,
        r"RuntimeError in the task's own code: model .Linear. on inputs of shape \(\d+, 2\)",
    ),
    **{
        f"random {how}, {draw.__name__}": (
            net(lambda how=how, draw=draw: Shrunk(how, draw)),  # type: ignore[misc]
            ModelDiffersError,
            f"{word} '1.inner.held' is drawn anew whenever .*fork_rng",
        )
        for how, word in (
            ("buffer", "buffer"),
            ("buffer that is not saved", "buffer"),
            ("frozen", "frozen parameter"),
        )
        for draw in (normal, of_numpy, of_python)
    },
    "random attribute": (
        net(lambda: Shrunk("attribute", normal)),
        TaskError,
        "the same weights give other outputs when the model is built again",
    ),
}


class Shrunk(nn.Module):
    """Held, four wide."""

    def __init__(self, how: str, draw: Callable[[], Tensor]) -> None:
        super().__init__()
        self.inner = Held(how, draw)
        self.inner.layer = nn.Linear(4, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.inner(inputs)
        return outputs


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("make", "error", "says"), MODELS.values(), ids=MODELS)
def test_a_model_that_cannot_work_is_refused_before_training(
    make: Callable[[], nn.Module], error: type[FedunlearnError], says: str
) -> None:
    with pytest.raises(FedunlearnError, match=says) as refusal:
        simulate(Lenient(make), NODES, no_body)
    assert type(refusal.value) is error
    assert str(refusal.value).startswith("node ") and "\n" not in str(refusal.value)


class Lenient(With):
    """A task whose model fails on nodes only: the server makes one too."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__(make)
        self.calls = 0

    def model(self) -> nn.Module:
        self.calls += 1
        return nn.Linear(2, 3) if self.calls == 1 else super().model()

    def __reduce__(self) -> tuple[object, ...]:
        return With, (self.make,)
