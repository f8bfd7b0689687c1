"""Builders of models around one layer each, with the inputs that they take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedunlearn.risk.task import Examples, Loss

COUNT = 6
CLASSES = 3
Make = Callable[[], nn.Module]


@dataclass(frozen=True)
class Subject:
    """A model with what it takes.

    Attributes:
        make: Builds it from torch's global generator.
        inputs: Shape of one example.
        tokens: How many there are, where inputs are tokens; 0 for real numbers.
        loss: Mean over examples.
        targets: Draws targets; classes where left out.
    """

    make: Make
    inputs: tuple[int, ...] = (6,)
    tokens: int = 0
    loss: Loss = nn.functional.cross_entropy
    targets: Callable[[torch.Generator], Tensor] | None = None

    def build(self, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Examples]:
        """Return the model in eval mode, and examples."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            model = self.make().to(dtype).eval()
        generator = torch.Generator().manual_seed(3)
        if self.tokens:
            inputs = torch.randint(self.tokens, (COUNT, *self.inputs), generator=generator)
        else:
            shape = (COUNT, *self.inputs)
            inputs = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        if self.targets is None:
            targets = torch.randint(CLASSES, (COUNT,), generator=generator)
        else:
            targets = self.targets(generator)
            targets = targets.to(dtype) if targets.is_floating_point() else targets
        return model, (inputs, targets)


class Shaped(nn.Module):
    """A function with layers of its own, as a module."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor], **layers: nn.Module):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self, inputs)


def between(layer: Make, width: int = 5) -> Make:
    """Return a network with a layer between two linear ones."""
    return lambda: nn.Sequential(nn.Linear(6, width), layer(), nn.LazyLinear(CLASSES))


def _made(make: Make, inputs: tuple[int, ...], tokens: int = 0) -> Make:
    """Return a network whose lazy layers have got their shapes."""

    def build() -> nn.Module:
        model = make()
        training = model.training
        example = torch.zeros(2, *inputs).long() if tokens else torch.randn(2, *inputs)
        model.eval()(example)
        return model.train(training)

    return build


def image(layer: Make, channels: int = 2, size: tuple[int, ...] = (6, 6)) -> Subject:
    """Return a network with a layer over images, volumes or signals, and a linear head."""
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(size) - 1]

    def make() -> nn.Module:
        return nn.Sequential(
            convolution(1, channels, 3), layer(), nn.Flatten(), nn.LazyLinear(CLASSES)
        )

    return Subject(_made(make, (1, *size)), (1, *size))


def first(layer: Make, inputs: tuple[int, ...]) -> Subject:
    """Return a network that begins with a layer and ends with a linear head."""

    def make() -> nn.Module:
        return nn.Sequential(layer(), nn.Flatten(), nn.LazyLinear(CLASSES))

    return Subject(_made(make, inputs), inputs)


def recurrent(layer: Make) -> Subject:
    """Return a recurrent layer over 4 steps, and a linear head on its last output."""

    def run(model: nn.Module, inputs: Tensor) -> Tensor:
        outputs, _ = model.layer(inputs)  # type: ignore[operator]
        return model.head(outputs[:, -1])  # type: ignore[no-any-return,operator]

    return Subject(_made(lambda: Shaped(run, layer=layer(), head=nn.LazyLinear(3)), (4, 5)), (4, 5))


def cell(layer: Make) -> Subject:
    """Return a recurrent cell that is called step by step."""

    def run(model: nn.Module, inputs: Tensor) -> Tensor:
        state = None
        for step in inputs.unbind(1):
            state = model.layer(step, state)  # type: ignore[operator]
        hidden = state[0] if isinstance(state, tuple) else state
        return model.head(hidden)  # type: ignore[no-any-return,operator]

    return Subject(lambda: Shaped(run, layer=layer(), head=nn.Linear(5, CLASSES)), (3, 4))


def function(run: Callable[[nn.Module, Tensor], Tensor], width: int = 5, **layers: Make) -> Subject:
    """Return a network whose hidden layer goes through a function."""

    def make() -> nn.Module:
        more = {name: layer() for name, layer in layers.items()}
        return Shaped(run, body=nn.Linear(6, width), head=nn.Linear(width, CLASSES), **more)

    return Subject(make)
