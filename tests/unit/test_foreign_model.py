"""Models of other code: buffers and tied parameters are theirs, and leave no trace in a network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fedunlearn.errors import InputError
from fedunlearn.lab.foreign_model import read_foreign_model
from fedunlearn.lab.model_outputs import outputs_of


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with torch.no_grad():
        layers(torch.randn(50, 3) * (1 + seed))  # running statistics of its own
    return layers.eval()


def test_running_statistics_are_those_of_the_file(tmp_path: Path) -> None:
    own, theirs = network(0), network(1)
    save_file(theirs.state_dict(), tmp_path / "m.safetensors")
    model = read_foreign_model(tmp_path / "m.safetensors", own)
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    inputs = torch.randn(9, 3)
    with model.loaded_into(own):
        found = outputs_of(own, model.weights, inputs)
    assert torch.equal(found, theirs(inputs))
    for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):
        assert torch.equal(own.state_dict()[name], before[name])
    without = {n: t for n, t in theirs.state_dict().items() if n != "1.running_var"}
    save_file(without, tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=r"has no tensor '1\.running_var'"):
        read_foreign_model(tmp_path / "m.safetensors", own)


def test_a_tied_parameter_needs_one_of_its_names(tmp_path: Path) -> None:
    tied = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    tied[1].weight = tied[0].weight
    for name in ("0.weight", "1.weight"):
        save_file({name: torch.eye(3)}, tmp_path / "m.safetensors")
        model = read_foreign_model(tmp_path / "m.safetensors", tied)
        assert torch.equal(model.weights, torch.eye(3).reshape(-1))
