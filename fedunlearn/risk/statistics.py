"""Running statistics of normalisation layers, estimated anew: a node's sums over its batches.

As ``torch.optim.swa_utils.update_bn`` does, the model runs in training mode at fixed weights, and
what layers see is averaged over batches; here each batch counts by its size, so that the sums of
nodes add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from fedunlearn.errors import TaskError
from fedunlearn.networks import MEAN, VAR, running_statistics
from fedunlearn.parameters import ParameterLayout, load, seeded
from fedunlearn.trees import Tree, map_tensors


def batches(indices: Tensor, size: int, entropy: Sequence[int]) -> list[Tensor]:
    """Cut examples into batches, in an order drawn from a seed.

    Args:
        indices: Places (n,) of the examples.
        size: Size of a batch. A single example that is left over joins the last batch, since a
            batch of one has no variance.
        entropy: Entropy from which the order is drawn.

    Returns:
        Their indices.
    """
    order = np.random.default_rng(list(entropy)).permutation(len(indices))
    parts = list(indices[torch.from_numpy(order)].split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        last = parts.pop()
        parts[-1] = torch.cat([parts[-1], last])
    return parts


def statistics(
    model: nn.Module,
    weights: Tensor,
    state: Mapping[str, Tensor],
    inputs: Iterable[tuple[int, Tree]],
    seed: int,
) -> Tensor:
    """Return sums over batches of their size times what normalisation layers see of them.

    A layer whose running statistics are not in the state is left as the model has it. The model's
    buffers are as before when this returns; its weights are the given ones.

    Args:
        model: Model in the mode in which it is differentiated.
        weights: The point (d,).
        state: Holds running statistics of the layers, by their names in ``state_dict``.
        inputs: Number of examples and inputs of each batch.
        seed: Seed of dropout, which is active as in training.

    Returns:
        For each layer, in the order of their names: sum of n_b times mean, then of n_b times
        unbiased variance; float64, flat.

    Raises:
        TaskError: The model has other layers there, or none.
    """
    layers = {name: _layer(model, name.rstrip(".")) for name in running_statistics(state)}
    device = ParameterLayout.of(model).device
    load(model, weights)
    total: dict[str, Tensor] = {}
    with torch.no_grad(), _training(model, layers.values()), seeded(seed):
        for count, batch in inputs:
            for layer in layers.values():
                layer.running_mean.zero_()  # type: ignore[union-attr]  # _layer saw to it
                layer.running_var.zero_()  # type: ignore[union-attr]
                layer.num_batches_tracked.zero_()  # type: ignore[union-attr]
            model(map_tensors(lambda one: one.to(device), batch))
            for name, layer in layers.items():
                for kind in (MEAN, VAR):
                    seen = layer.get_buffer(kind).double().cpu() * count
                    total[name + kind] = total.get(name + kind, 0.0) + seen
    return torch.cat([total[name + kind] for name in layers for kind in (MEAN, VAR)])


def with_statistics(state: Mapping[str, Tensor], means: Tensor) -> dict[str, Tensor]:
    """Return a state with other running statistics.

    Args:
        state: Holds running statistics of some layers.
        means: What ``statistics`` returns, summed over nodes and divided by the examples.
    """
    sizes = running_statistics(state)
    names = [name + kind for name in sizes for kind in (MEAN, VAR)]
    parts = means.split([state[name].numel() for name in names])
    new = {
        name: part.to(state[name].dtype).view(state[name].shape)
        for name, part in zip(names, parts, strict=True)
    }
    return {**state, **new}


def _layer(model: nn.Module, name: str) -> _NormBase:
    layer = dict(model.named_modules(remove_duplicate=False)).get(name)
    if not isinstance(layer, _NormBase) or layer.running_mean is None:
        kind = "missing" if layer is None else type(layer).__name__
        raise TaskError(
            f"model: layer {name!r} is {kind}, whose running statistics cannot be estimated anew; "
            "use torch.nn's BatchNorm there, or leave its statistics as they were trained"
        )
    return layer


@contextmanager
def _training(model: nn.Module, layers: Iterable[_NormBase]) -> Iterator[None]:
    """Put a model in training mode but for normalisation layers that are not asked for.

    Args:
        model: Its modes and buffers are put back.
        layers: Those that are asked for.

    Yields:
        Nothing.
    """
    asked = set(layers)
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    momenta = {layer: layer.momentum for layer in asked}
    try:
        model.train()
        for module in modes:
            if isinstance(module, _NormBase) and module not in asked:
                module.train(modes[module])
        for layer in asked:
            # None averages over all calls of a forward pass, which InstanceNorm does not know.
            layer.momentum = None if isinstance(layer, _BatchNorm) else 1.0
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        for layer, momentum in momenta.items():
            layer.momentum = momentum
        for buffer, before in buffers:
            buffer.copy_(before)
