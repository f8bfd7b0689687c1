"""A node's own training between two rounds."""

from __future__ import annotations

from torch import Tensor, nn

from fedunlearn.parameters import flatten, load
from fedunlearn.risk.examples import Examples
from fedunlearn.risk.local_rules import Descent, LocalPlan, LocalRule, Work
from fedunlearn.risk.task import Loss

ORDINARY = Descent()


def train_locally(
    model: nn.Module,
    loss: Loss,
    examples: Examples | tuple[Tensor, Tensor],
    weights: Tensor,
    plan: LocalPlan,
    rule: LocalRule = ORDINARY,
    reference: Tensor | None = None,
) -> Tensor:
    """Train from given weights.

    Args:
        model: Used as a workspace.
        loss: Mean over examples.
        examples: Inputs and targets, n > 0.
        weights: Start, shape (d,).
        plan: Epochs, batches and step size.
        rule: What is done with them.
        reference: Weights (d,) that some rules need beside the start.

    Returns:
        The weights after training, shape (d,), with the dtype and device of the given ones.
    """
    load(model, weights)
    rule.train(Work(model, loss, examples, plan, reference))
    return flatten(model).to(weights)
