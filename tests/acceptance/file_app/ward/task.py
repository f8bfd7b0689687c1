"""Model and data."""

from pathlib import Path

import numpy as np
import torch
from flwr.app import Context
from torch import Tensor, nn
from torch.utils.data import TensorDataset


class Net(nn.Module):
    """A small network with normalisation and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)


def load_data(context: Context) -> tuple[TensorDataset, TensorDataset]:
    """Read a node's own file: training and held-out examples."""
    path = context.node_config.get("data")
    if path is None:  # in a simulation all files are in one folder
        path = f"{context.run_config['folder']}/{context.node_config['partition-id']}.csv"
    table = torch.tensor(np.loadtxt(Path(str(path)), delimiter=","), dtype=torch.float32)
    inputs, targets = table[:, :-1], table[:, -1:]
    cut = len(table) * 4 // 5
    return TensorDataset(inputs[:cut], targets[:cut]), TensorDataset(inputs[cut:], targets[cut:])
