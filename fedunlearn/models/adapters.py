"""Low-rank adapters (LoRA, Hu et al. 2021): a frozen network and a few trainable numbers beside it.

Only what trains is in the flat vector, so that curvature, messages and steps are as small as that.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from typing_extensions import override

from fedunlearn.errors import TaskError


class LowRankAdapter(nn.Module):
    """A frozen linear layer plus a trainable map of low rank.

    W x + b + B A x, with A (rank, in) and B (out, rank); B starts at 0, so that nothing changes
    before training (Hu et al. 2021, section 4.1, with their scale alpha / r at 1).
    """

    def __init__(self, base: nn.Linear, rank: int) -> None:
        """Wrap a layer; A is drawn from torch's global generator, as every weight that trains.

        Args:
            base: Frozen from now on.
            rank: Rank of the map; at most the smaller side of the layer.

        Raises:
            TaskError: The rank does not fit the layer.
        """
        super().__init__()
        if not 1 <= rank <= min(base.in_features, base.out_features):
            raise TaskError(
                f"model: adapters of rank {rank} do not fit a layer of {base.in_features} inputs "
                f"and {base.out_features} outputs; use a rank from 1 to the smaller of these"
            )
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.up = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5.0))  # as nn.Linear draws its own

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        frozen: Tensor = self.base(inputs)
        return frozen + inputs @ self.down.T @ self.up.T


def add_adapters(module: nn.Module, rank: int) -> nn.Module:
    """Freeze a network and put an adapter beside each of its linear layers.

    A head that is to train wholly is added afterwards:
    ``nn.Sequential(add_adapters(encoder, rank=8), nn.Linear(width, classes))``.

    Args:
        module: Changed in place: every parameter is frozen, every ``nn.Linear`` wrapped.
        rank: Rank of each adapter.

    Returns:
        The network; the wrapped layer where it is a linear layer itself.

    Raises:
        TaskError: There is no linear layer, a layer is smaller than the rank, or one is read past
            its forward(), as torch's own attention does, where an adapter would have no effect.
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.MultiheadAttention):
            raise TaskError(
                f"model: layer {name!r} (MultiheadAttention) takes its weights past its linear "
                "layers, so adapters would have no effect; use an attention that calls nn.Linear"
            )
    module.requires_grad_(False)
    if isinstance(module, nn.Linear):
        return LowRankAdapter(module, rank)
    places = [
        (parent, name, layer)
        for parent in module.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, nn.Linear)
    ]
    if not places:
        raise TaskError("model: has no nn.Linear to put an adapter beside; train a head on it")
    wrapped: dict[nn.Linear, LowRankAdapter] = {}  # a layer in two places keeps one adapter
    for parent, name, layer in places:
        if layer not in wrapped:
            wrapped[layer] = LowRankAdapter(layer, rank)
        setattr(parent, name, wrapped[layer])
    return module
