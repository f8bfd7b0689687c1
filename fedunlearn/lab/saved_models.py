"""What other code needs to unlearn in a scenario: its models and its data, in safetensors files.

======================== =========================================================================
file                     holds
======================== =========================================================================
initial.safetensors      the state_dict before training
trained.safetensors      the state_dict of the model that is to forget
retrained.safetensors    the state_dict of the first retrained model of the last request
METHOD.safetensors       the state_dict that a method of the scenario gave on the last request
data.safetensors         inputs, targets, node, leaves (k: leaves by request k; 0: stays),
                         test_inputs, test_targets
======================== =========================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from fedunlearn.files import replacing
from fedunlearn.lab.experiment import Experiment
from fedunlearn.networks import build_model, fixed_tensors
from fedunlearn.parameters import ParameterLayout

DATA, ENDING = "data", ".safetensors"


def save_models(experiment: Experiment, models: Mapping[str, Tensor], folder: Path) -> list[Path]:
    """Write models of a run and the data of its scenario.

    Args:
        experiment: The scenario.
        models: Weights (d,) by the name of their file.
        folder: The folder, which is made.

    Returns:
        The files.
    """
    network = build_model(experiment.task.model)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {name: _state(network, weights) for name, weights in models.items()}
    contents[DATA] = _data(experiment)
    written = []
    for name, tensors in contents.items():
        metadata = None if name == DATA else {"model": str(network)}
        path = folder / f"{name.replace('/', '_')}{ENDING}"
        with replacing(path) as file:
            file.write(safetensors.torch.save(tensors, metadata))
        written.append(path)
    return written


def _state(network: nn.Module, weights: Tensor) -> dict[str, Tensor]:
    named = {**fixed_tensors(network), **ParameterLayout.of(network).unflatten(weights)}
    return {name: tensor.detach().clone().contiguous() for name, tensor in named.items()}


def _data(experiment: Experiment) -> dict[str, Tensor]:
    split = experiment.task.split
    node = torch.full_like(split.targets, -1)
    leaves = torch.zeros_like(split.targets)
    for number, array in enumerate(split.nodes):
        own = torch.from_numpy(array)
        node[own] = number
        for request, forget in reversed(list(enumerate(experiment.requests, start=1))):
            leaves[own[forget.forgotten_by_now(number, split.targets[own])]] = request
    return {
        "inputs": split.inputs.contiguous(),
        "targets": split.targets,
        "node": node,
        "leaves": leaves,
        "test_inputs": split.test_inputs.contiguous(),
        "test_targets": split.test_targets,
    }
