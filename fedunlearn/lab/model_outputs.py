"""A model's outputs and probabilities on examples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedunlearn.parameters import load

CHUNK = 2048


def outputs_of(workspace: nn.Module, weights: Tensor, inputs: Tensor) -> Tensor:
    """Return outputs (n, ...) at weights (d,), which the workspace holds afterwards."""
    load(workspace, weights)
    with torch.no_grad():
        return torch.cat([workspace(chunk) for chunk in inputs.split(CHUNK)])


def probabilities_of(workspace: nn.Module, weights: Tensor, inputs: Tensor) -> Tensor:
    """Return class probabilities (n, classes), float64, at weights (d,)."""
    return outputs_of(workspace, weights, inputs).double().softmax(1)
