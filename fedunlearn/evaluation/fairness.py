"""Fairness: the spread of a model's accuracy over the nodes that stay."""

from __future__ import annotations

import torch
from torch import Tensor


def node_accuracies(predicted: Tensor, targets: Tensor, owners: Tensor) -> dict[int, float]:
    """Return the accuracy on each node's examples.

    Args:
        predicted: Classes (n,).
        targets: True classes (n,).
        owners: Number of the node that holds each example (n,).

    Returns:
        Accuracy by node, for nodes with examples.
    """
    right = (predicted == targets).double()
    return {int(node): float(right[owners == node].mean()) for node in owners.unique()}


def fairness(predicted: Tensor, targets: Tensor, owners: Tensor) -> dict[str, float]:
    """Return the lowest accuracy of a node and the standard deviation over nodes.

    Every node has the same weight, however many examples it holds (Li, Sanjabi, Beirami, Smith
    2020, "Fair resource allocation in federated learning", definition 1). The arguments are those
    of ``node_accuracies``.

    Returns:
        ``worst_node_accuracy`` and ``node_accuracy_spread``.
    """
    by_node = node_accuracies(predicted, targets, owners)
    accuracies = torch.tensor(list(by_node.values()), dtype=torch.float64)
    return {
        "worst_node_accuracy": float(accuracies.min()),
        "node_accuracy_spread": float(accuracies.std(correction=0)),
    }
