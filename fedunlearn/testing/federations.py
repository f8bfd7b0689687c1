"""A small task, and a federation of it in this process."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedunlearn.federation.federation import Federation
from fedunlearn.federation.inline_federation import open_inline
from fedunlearn.networks import NetworkDigest, build_model
from fedunlearn.node.node import TaskNode
from fedunlearn.parameters import ParameterLayout
from fedunlearn.risk.task import Loss, Task


class Points:
    """Three classes of points in the plane, spread unevenly over nodes; a network with 33 weights.

    Attributes:
        loss: The cross-entropy loss.
        dtype: Dtype of inputs and weights.
    """

    loss: Loss = nn.CrossEntropyLoss()

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        """Take the dtype.

        Args:
            dtype: Dtype of inputs and weights.
        """
        self.dtype = dtype

    def model(self) -> nn.Module:
        """Return a new network."""
        layers = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 3))
        return layers.to(self.dtype)

    def data(self, node: int) -> tuple[Tensor, Tensor]:
        """Return inputs (12 + 5 node, 2) and labels (12 + 5 node,) of a node."""
        generator = torch.Generator().manual_seed(node)
        targets = torch.randint(0, 3, (12 + 5 * node,), generator=generator)
        centres = torch.tensor([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])
        inputs = centres[targets] + torch.randn(len(targets), 2, generator=generator)
        return inputs.to(self.dtype), targets


def in_process(task: Task, nodes: int) -> Federation:
    """Open a federation whose nodes are in this process.

    Args:
        task: The task on which every node computes.
        nodes: Number of nodes.

    Returns:
        The enrolled federation, to be closed, or used as a context.
    """
    model = build_model(task.model)
    return open_inline(
        {number: TaskNode(task, number) for number in range(nodes)},
        layout=ParameterLayout.of(model),
        network=NetworkDigest.of(model),
    )
