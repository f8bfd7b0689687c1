"""A node's own training between two rounds: plain SGD with weight decay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedunlearn.parameters import ParameterLayout, flatten, load
from fedunlearn.risk.task import Examples, Loss


@dataclass(frozen=True)
class LocalPlan:
    """What a node is to do in one training round.

    Attributes:
        epochs: Passes over the node's examples.
        batch_size: Examples a step.
        learning_rate: Step size.
        weight_decay: lambda of (lambda/2)||w||^2, part of the objective.
        order: Seeds the order of the examples, with the node's number.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    order: tuple[int, ...]


def train_locally(
    model: nn.Module, loss: Loss, examples: Examples, weights: Tensor, plan: LocalPlan
) -> Tensor:
    """Run SGD from given weights.

    Args:
        model: Used as a workspace.
        loss: Mean over examples.
        examples: Inputs and targets, n > 0.
        weights: Start, shape (d,).
        plan: Epochs, batches and step size.

    Returns:
        The weights after training, shape (d,), with the dtype and device of the given ones.
    """
    inputs, targets = examples
    load(model, weights)
    device = ParameterLayout.of(model).device
    optimiser = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad],
        lr=plan.learning_rate,
        weight_decay=plan.weight_decay,
    )
    generator = np.random.default_rng(plan.order)
    for _ in range(plan.epochs):
        order = torch.from_numpy(generator.permutation(len(inputs)))
        for batch in order.split(plan.batch_size):
            optimiser.zero_grad()
            loss(model(inputs[batch].to(device)), targets[batch].to(device)).backward()
            optimiser.step()
    return flatten(model).to(weights)
