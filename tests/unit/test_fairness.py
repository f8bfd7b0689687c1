"""Accuracy node by node."""

from __future__ import annotations

import pytest
import torch

from fedunlearn.evaluation.fairness import fairness, node_accuracies

TARGETS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
OWNERS = torch.tensor([0, 0, 0, 0, 3, 3, 5, 5])


def test_accuracies_are_those_of_the_nodes_that_hold_something() -> None:
    predicted = torch.tensor([0, 1, 2, 1, 0, 2, 1, 0])
    assert node_accuracies(predicted, TARGETS, OWNERS) == {0: 0.75, 3: 0.5, 5: 0.0}


def test_every_node_counts_the_same() -> None:
    predicted = torch.tensor([0, 1, 2, 0, 1, 2, 1, 0])  # right everywhere but on node 5
    assert fairness(predicted, TARGETS, OWNERS) == pytest.approx(
        {"worst_node_accuracy": 0.0, "node_accuracy_spread": (2 / 9) ** 0.5}
    )


def test_a_model_that_serves_all_alike_has_no_spread() -> None:
    assert fairness(TARGETS, TARGETS, OWNERS) == {
        "worst_node_accuracy": 1.0,
        "node_accuracy_spread": 0.0,
    }
    alone = fairness(TARGETS, TARGETS, torch.zeros(8))
    assert alone["node_accuracy_spread"] == 0.0
