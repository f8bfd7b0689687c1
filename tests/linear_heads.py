"""Small federations whose networks train one linear layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedunlearn.models.heads import UnitBall
from fedunlearn.risk.task import Loss

WIDTH = 6
CLASSES = 3


class LinearPoints:
    """Three classes of points in the plane; a frozen layer, and a linear head of 18 weights."""

    def __init__(
        self, loss: Loss, *, bias: bool = False, dtype: torch.dtype = torch.float64, more: int = 12
    ) -> None:
        self.loss = loss
        self.bias = bias
        self.dtype = dtype
        self.more = more

    def model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            frozen = nn.Sequential(nn.Linear(2, WIDTH), nn.Tanh())
        if not self.bias:
            frozen.append(UnitBall())
        frozen.requires_grad_(False)
        return nn.Sequential(frozen, nn.Linear(WIDTH, CLASSES, bias=self.bias)).to(self.dtype)

    def data(self, node: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(node)
        targets = torch.randint(0, CLASSES, (self.more + 5 * node,), generator=generator)
        centres = torch.tensor([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])
        inputs = centres[targets] + torch.randn(len(targets), 2, generator=generator)
        return inputs.to(self.dtype), targets

    def features(self, node: int) -> tuple[Tensor, Tensor]:
        """Return the head's inputs, with 1 for a bias, and unit vectors of the labels; float64."""
        inputs, targets = self.data(node)
        frozen = self.model().double()[0]
        rows = frozen(inputs.double())
        if self.bias:
            rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
        return rows, nn.functional.one_hot(targets, CLASSES).double()
