"""Whatever draws, or changes between two passes, is refused at every try, not by luck."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from fedunlearn.errors import NotDeterministicError, TaskError
from fedunlearn.risk.objective import EmpiricalRisk
from fedunlearn.risk.task import Examples, Loss

pytestmark = pytest.mark.slow

TRIES = 200
MODULE_RNG = np.random.default_rng(5)
LOSS: Loss = nn.functional.mse_loss


class Net(nn.Module):
    """A residual network whose block goes through a function."""

    def __init__(self, change: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.block, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.change = change

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.change(self, torch.tanh(self.first(inputs))))
        return outputs


class LayerDrop(nn.Module):
    """A layer that is left out now and then, for the whole batch."""

    def __init__(self, share: float, draw: Callable[[], float]) -> None:
        super().__init__()
        self.inner, self.share, self.draw = nn.Linear(4, 4), share, draw

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training and self.draw() < self.share:
            return inputs
        outputs: Tensor = inputs + self.inner(inputs)
        return outputs


class OwnGenerator(nn.Module):
    """Draws from a generator that it holds."""

    def __init__(self, generator: object, draw: Callable[[OwnGenerator], float]) -> None:
        super().__init__()
        self.held, self.draw = {"generators": [generator]}, draw
        self.generator = generator

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * (1.0 + (self.draw(self) < 0.02))


class Counts(nn.Module):
    """Counts its calls in a buffer, and depends on the count now and then."""

    def __init__(self, *, persistent: bool) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()), persistent=persistent)

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return inputs * (1.0 + (self.calls % 50 == 0))


class Warms(nn.Module):
    """Keeps an average as a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.average = torch.zeros(4)

    def forward(self, inputs: Tensor) -> Tensor:
        self.average = 0.9 * self.average + 0.1 * inputs.detach().mean(0).float()
        return inputs - self.average


class Anneals(nn.Module):
    """Becomes another function with every call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return inputs / (1.0 + self.calls // 1000)


class _Stochastic(nn.Module):
    """Stochastic depth: every example's block is dropped for itself."""

    def forward(self, inputs: Tensor) -> Tensor:
        kept = (torch.rand(len(inputs), 1) >= 0.01).to(inputs)
        return inputs * kept


def _inner(layer: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Linear(4, 4), nn.Sequential(layer(), nn.Tanh()), nn.Linear(4, 2)
    )


def _image(layer: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)),
        nn.Upsample(scale_factor=2),
        *(layer(), nn.Flatten(), nn.Linear(4, 2)),
    )


def _net(change: Callable[[Net, Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: Net(change)


def _torch() -> float:
    return float(torch.rand(()))


def _numpy_new() -> float:
    return float(np.random.default_rng().random())


def _entropy() -> float:
    return int.from_bytes(os.urandom(4), "little") / 2**32


TORCH, NUMPY, PYTHON = "torch's global generator", "NumPy's global generator", "Python's random"
INNER = "layer '1.0'"
RANDOM: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "LayerDrop, .1": (_inner(lambda: LayerDrop(0.1, _torch)), f"{INNER}.*{TORCH}"),
    "LayerDrop, .02": (_inner(lambda: LayerDrop(0.02, _torch)), f"{INNER}.*{TORCH}"),
    "LayerDrop, random": (_inner(lambda: LayerDrop(0.02, random.random)), f"{INNER}.*{PYTHON}"),
    "LayerDrop, NumPy": (_inner(lambda: LayerDrop(0.02, np.random.rand)), f"{INNER}.*{NUMPY}"),
    "LayerDrop, module's": (
        _inner(lambda: LayerDrop(0.02, lambda: float(MODULE_RNG.random()))),
        f"{INNER}.*the generator 'MODULE_RNG'",
    ),
    "LayerDrop, entropy": (_inner(lambda: LayerDrop(0.02, _entropy)), "system's entropy"),
    "LayerDrop, secrets": (
        _inner(lambda: LayerDrop(0.02, lambda: secrets.randbelow(1000) / 1000)),
        "system's entropy",
    ),
    "LayerDrop, a new generator": (_inner(lambda: LayerDrop(0.02, _numpy_new)), "entropy"),
    "LayerDrop, a new Random": (
        _inner(lambda: LayerDrop(0.02, lambda: random.Random().random())),
        "entropy",
    ),
    "tiny dropout": (_inner(lambda: nn.Dropout(1e-6)), f"{INNER} .Dropout. drops at random"),
    "functional dropout": (
        _net(lambda net, x: net.block(nn.functional.dropout(x, 1e-5, net.training))),
        f"model .Net. draws random numbers .{TORCH}",
    ),
    "stochastic depth": (_inner(_Stochastic), f"{INNER} ._Stochastic. draws"),
    "gumbel": (
        _net(lambda net, x: nn.functional.gumbel_softmax(net.block(x), tau=0.5)),
        f"model .Net. draws.*{TORCH}",
    ),
    "noise": (_net(lambda net, x: x + 1e-9 * torch.randn_like(x)), f"draws.*{TORCH}"),
    "noise of NumPy": (
        _net(lambda net, x: x + torch.as_tensor(np.random.normal(size=x.shape)).to(x) * 1e-9),
        f"draws.*{NUMPY}",
    ),
    "noise of NumPy's modern kind": (
        _inner(
            lambda: OwnGenerator(np.random.default_rng(1), lambda own: own.generator.random())  # type: ignore[attr-defined]
        ),
        f"{INNER}.*generator",
    ),
    "torch's own kind": (
        _inner(
            lambda: OwnGenerator(
                torch.Generator().manual_seed(1),
                lambda own: float(torch.rand((), generator=own.generator)),  # type: ignore[call-overload]
            )
        ),
        f"{INNER}.*generator",
    ),
    "Python's own kind": (
        _inner(lambda: OwnGenerator(random.Random(1), lambda own: own.generator.random())),  # type: ignore[attr-defined]
        f"{INNER}.*generator",
    ),
    "NumPy's old kind": (
        _inner(
            lambda: OwnGenerator(np.random.RandomState(1), lambda own: own.generator.rand())  # type: ignore[attr-defined]
        ),
        f"{INNER}.*generator",
    ),
    "RReLU": (_inner(nn.RReLU), f"{INNER} .RReLU. draws"),
    "FractionalMaxPool": (
        _image(lambda: nn.FractionalMaxPool2d(2, output_size=2)),
        "layer '2' .FractionalMaxPool2d. draws.*in eval.. mode too",
    ),
    "attention with dropout": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (2, 2)),
            nn.TransformerEncoderLayer(2, 1, 4, dropout=0.01, batch_first=True),
            *(nn.Flatten(), nn.Linear(4, 2)),
        ),
        r"layer '1.(self_attn|dropout\w*)' .\w+. dr",
    ),
    "BatchNorm": (_inner(lambda: nn.BatchNorm1d(4, momentum=1e-6)), f"{INNER} .BatchNorm1d. in tr"),
    "InstanceNorm, tracked": (
        _image(
            lambda: nn.Sequential(nn.InstanceNorm2d(1, track_running_stats=True), nn.MaxPool2d(2))
        ),
        "buffer '2.0.(running_mean|running_var|num_batches_tracked)' changes",
    ),
    "spectral_norm": (
        _inner(lambda: parametrizations.spectral_norm(nn.Linear(4, 4))),
        r"buffer '1.0.parametrizations.weight.0._[uv]' changes",
    ),
    "spectral_norm of old": (
        _inner(lambda: nn.utils.spectral_norm(nn.Linear(4, 4))),
        r"buffer '1.0.weight_[uv]' changes",
    ),
    "a count": (_inner(lambda: Counts(persistent=True)), "buffer '1.0.calls' changes"),
    "a count that is not saved": (
        _inner(lambda: Counts(persistent=False)),
        "buffer '1.0.calls' changes",
    ),
    "an average": (_inner(Warms), "attribute '1.0.average' changes"),
    "a number that counts": (_inner(Anneals), "attribute '1.0.calls' changes"),
}


def _examples() -> Examples:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(20, 4, generator=generator), torch.randn(20, 2, generator=generator)


def _states() -> tuple[object, ...]:
    return (
        torch.get_rng_state().tolist(),
        tuple(np.random.get_state()[1].tolist()),  # type: ignore[index,union-attr]
        random.getstate(),
    )


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:enable_nested_tensor")
@pytest.mark.parametrize(("make", "says"), RANDOM.values(), ids=RANDOM)
def test_it_is_refused_every_time(make: Callable[[], nn.Module], says: str) -> None:
    examples = _examples()
    for seed in range(TRIES):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        if seed % 20 == 0:
            model = make().train()
        kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        states = _states() if seed % 20 == 0 else None
        with pytest.raises(NotDeterministicError, match=says) as refusal:
            EmpiricalRisk(model, LOSS, examples)
        assert "\n" not in str(refusal.value)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, kept[name]), name
        assert states is None or states == _states()
    assert model.training


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize(
    "name",
    ["LayerDrop, .1", "RReLU", "functional dropout", "spectral_norm", "attention with dropout"],
)
def test_the_same_passes_in_eval_mode_as_the_message_says(name: str) -> None:
    model = RANDOM[name][0]().eval()
    with pytest.raises(NotDeterministicError, match=r"in eval\(\) mode"):
        EmpiricalRisk(RANDOM[name][0]().train(), LOSS, _examples())
    assert len(EmpiricalRisk(model, LOSS, _examples())) == 20


def test_a_loss_that_draws_is_refused() -> None:
    def jittered(outputs: Tensor, targets: Tensor) -> Tensor:
        return LOSS(outputs + 1e-9 * torch.rand_like(outputs), targets)

    for _ in range(TRIES):
        with pytest.raises(NotDeterministicError, match="loss: draws random numbers"):
            EmpiricalRisk(nn.Linear(4, 2), jittered, _examples())


def test_a_clock_is_found_by_what_it_does() -> None:
    import time

    model = Net(lambda net, x: x * (1.0 + time.perf_counter() % 1.0))
    with pytest.raises(NotDeterministicError, match="two different results"):
        EmpiricalRisk(model, LOSS, _examples())


def test_what_draws_when_it_is_made_passes() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator = torch.Generator().manual_seed(3)
            self.register_buffer("features", torch.randn(4, 4, generator=self.generator))

        def forward(self, inputs: Tensor) -> Tensor:
            return torch.cos(inputs @ self.features)  # type: ignore[operator]

    assert len(EmpiricalRisk(_inner(Fixed)(), LOSS, _examples())) == 20


def test_weights_that_change_are_put_back() -> None:
    model = Net(lambda net, x: net.block(x))

    def forward(inputs: Tensor) -> Tensor:
        model.block.weight.data.clamp_(-1e-3, 1e-3)
        return model.head(model.block(inputs))  # type: ignore[no-any-return]

    model.forward = forward  # type: ignore[method-assign]
    before = model.block.weight.detach().clone()
    for _ in range(2):
        with pytest.raises(TaskError, match=r"weights 'block\.weight' change in forward"):
            EmpiricalRisk(model, LOSS, _examples())
        assert torch.equal(model.block.weight, before)
