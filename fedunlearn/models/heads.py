"""Linear heads whose inputs are at most 1 long, as certified removal assumes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override


class UnitBall(nn.Module):
    """Scale vectors (n, p) that are longer than 1 to length 1, each by itself."""

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        lengths = torch.linalg.vector_norm(inputs, dim=1, keepdim=True)
        scaled: Tensor = inputs / lengths.clamp(min=1.0)
        return scaled


def unit_logistic(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a linear layer without bias on inputs that are scaled into the unit ball."""
    size = torch.Size(shape).numel()
    return nn.Sequential(nn.Flatten(), UnitBall(), nn.Linear(size, classes, bias=False))
