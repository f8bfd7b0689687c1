"""A model's outputs on examples."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from fedunlearn.data.scenario_task import ScenarioTask
from fedunlearn.networks import build_model
from fedunlearn.parameters import load

CHUNK = 2048


def outputs_of(workspace: nn.Module, weights: Tensor, inputs: Tensor) -> Tensor:
    """Return outputs (n, ...) at weights (d,), which the workspace holds afterwards."""
    load(workspace, weights)
    with torch.no_grad():
        return torch.cat([workspace(chunk) for chunk in inputs.split(CHUNK)])


def accuracy(task: ScenarioTask, weights: Tensor, *, without: Collection[int]) -> float | None:
    """Return the accuracy on held-out examples whose label is none of some; None without any."""
    inputs, targets = task.test_data()
    kept = ~torch.isin(targets, targets.new_tensor(sorted(without)))
    if not kept.any():
        return None
    outputs = outputs_of(build_model(task.model), weights, inputs[kept])
    return float((outputs.argmax(1) == targets[kept]).double().mean())
