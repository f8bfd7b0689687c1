"""The networks a scenario can name. None has dropout or BatchNorm: see risk/probe.py."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fedunlearn.errors import ScenarioError
from fedunlearn.models.heads import unit_logistic
from fedunlearn.models.resnet import resnet18_layers
from fedunlearn.models.text import text, text_adapters

Shape = tuple[int, ...]
Factory = Callable[[Shape, int], nn.Module]


def logistic(shape: Shape, classes: int) -> nn.Module:
    """Multinomial logistic regression: convex."""
    return nn.Sequential(nn.Flatten(), nn.Linear(_size(shape), classes))


def mlp(shape: Shape, classes: int, hidden: Sequence[int] = (32,)) -> nn.Module:
    """Hidden layers of rectified units; one of 32 by default."""
    layers: list[nn.Module] = [nn.Flatten()]
    size = _size(shape)
    for width in hidden:
        layers += [nn.Linear(size, width), nn.ReLU()]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, classes))


def cnn(shape: Shape, classes: int) -> nn.Module:
    """Two convolutions with pooling, then one linear layer.

    Returns:
        The network, for images of at least 4 x 4.

    Raises:
        ScenarioError: The inputs are not images of at least 4 x 4.
    """
    _require_images("cnn", shape, 4)
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (height // 4) * (width // 4), classes),
    )


def resnet18(shape: Shape, classes: int) -> nn.Module:
    """ResNet-18 with GroupNorm, in its form for small images (resnet.py).

    Returns:
        The network, for images of at least 8 x 8.

    Raises:
        ScenarioError: The inputs are not images of at least 8 x 8.
    """
    _require_images("resnet18", shape, 8)
    return resnet18_layers(shape[0], classes)


MODELS: dict[str, Factory] = {
    "logistic": logistic,
    "unit-logistic": unit_logistic,
    "mlp": mlp,
    "cnn": cnn,
    "resnet18": resnet18,
    "text": text,
    "text-adapters": text_adapters,
}
OF_TOKENS = ("text", "text-adapters")


def make_model(
    name: str, inputs: Tensor, classes: int, hidden: Sequence[int] | None = None
) -> nn.Module:
    """Make a network for some inputs.

    Args:
        name: Name of the network, as for ``find_factory``.
        inputs: Some examples (n, ...): images or features, or token ids as int64.
        classes: How many.
        hidden: mlp: widths of its hidden layers; None for its default, and for other networks.

    Returns:
        The network, with weights drawn from torch's global generator.

    Raises:
        ScenarioError: There is no such network, or it does not take such inputs.
    """
    factory = find_factory(name)
    if name in MODELS:
        tokens = inputs.dtype == torch.int64
        if name in OF_TOKENS and not tokens:
            raise ScenarioError(
                f"model.name: {name} needs token ids, not inputs of shape "
                f"{tuple(inputs.shape[1:])}; list columns of text in data.text, or use another"
            )
        if tokens and name not in OF_TOKENS:
            raise ScenarioError(
                f"model.name: {name} takes no token ids, which data.text makes; use "
                f"{' or '.join(OF_TOKENS)}"
            )
    shape = tuple(inputs.shape[1:])
    return factory(shape, classes) if hidden is None else mlp(shape, classes, hidden)


def find_factory(name: str) -> Factory:
    """Return a model factory by its name or as ``package.module:factory``.

    Raises:
        ScenarioError: There is none of that name.
    """
    if name in MODELS:
        return MODELS[name]
    module_name, colon, attribute = name.partition(":")
    if not colon:
        raise ScenarioError(
            f"model.name: {name!r} is unknown; use one of {', '.join(MODELS)} or "
            "'package.module:factory'"
        )
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ScenarioError(f"model.name: {name!r} cannot be imported: {error}") from error
    if not callable(factory):
        raise ScenarioError(
            f"model.name: {name!r} is not callable; give (shape, classes) -> Module"
        )
    return factory  # type: ignore[no-any-return]


def _require_images(name: str, shape: Shape, least: int) -> None:
    if len(shape) != 3 or min(shape[1:]) < least:
        raise ScenarioError(
            f"model.name: {name} needs images (channels, height, width) of {least} x {least} or "
            f"more, not {shape}"
        )


def _size(shape: Shape) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
