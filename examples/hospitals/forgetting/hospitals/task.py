"""The model, the data and the local training of the app."""

import csv
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

from hospitals.files import COLUMNS, TARGET, made_rows

HELD_OUT = 5  # every fifth patient of a hospital is for evaluation


class Net(nn.Module):
    """A network of one hidden layer, whose output is the logit of the disease."""

    def __init__(self) -> None:
        """Build the layers."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(len(COLUMNS), 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 1)
        )

    def forward(self, patients: torch.Tensor) -> torch.Tensor:
        """Map patients (n, columns) to logits (n, 1)."""
        return self.layers(patients)


def rows_of(context: Context) -> list[dict]:
    """Return a node's own rows.

    The file is ``data`` of the node's config; in a simulation the file of the node's number in the
    folder ``data-folder``; without a folder, patients are made.
    """
    own = context.node_config.get("data")
    folder = str(context.run_config["data-folder"])
    number = int(context.node_config.get("partition-id", 0))
    if not own and not folder:
        return made_rows(number)
    path = Path(str(own)) if own else sorted(Path(folder).glob("*.csv"))[number]
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def load_data(context: Context) -> tuple[TensorDataset, TensorDataset]:
    """Return a node's patients: those to train on, and those held out."""
    rows = rows_of(context)
    features = torch.zeros(len(rows), len(COLUMNS))  # what is missing counts as the middle
    for place, (name, (middle, spread)) in enumerate(COLUMNS.items()):
        for number, row in enumerate(rows):
            missing = row[name] in ("", None) or (name == "chol" and float(row[name]) == 0)
            if not missing:
                features[number, place] = (float(row[name]) - middle) / spread
    targets = torch.tensor([[float(float(row[TARGET]) > 0)] for row in rows])
    held_out = torch.arange(len(rows)) % HELD_OUT == 0
    return tuple(TensorDataset(features[some], targets[some]) for some in (~held_out, held_out))


def train_model(
    model: nn.Module, loader: DataLoader, epochs: int, learning_rate: float, proximal: float
) -> float:
    """Train by SGD, held near to the weights that the server sent, and return the mean loss."""
    start = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9)
    model.train()
    losses = []
    for _ in range(epochs):
        for patients, targets in loader:
            optimizer.zero_grad()
            loss = binary_cross_entropy_with_logits(model(patients), targets)
            moved = sum(
                (now - then).square().sum()
                for now, then in zip(model.parameters(), start, strict=True)
            )
            (loss + proximal / 2 * moved).backward()
            optimizer.step()
            losses.append(loss.item())
    return float(np.mean(losses)) if losses else 0.0


@torch.no_grad()
def evaluate_model(model: nn.Module, loader: DataLoader) -> tuple[float, float]:
    """Return the mean loss and the accuracy."""
    model.eval()
    loss, correct, count = 0.0, 0, 0
    for patients, targets in loader:
        logits = model(patients)
        loss += binary_cross_entropy_with_logits(logits, targets, reduction="sum").item()
        correct += int(((logits > 0) == (targets > 0)).sum())
        count += len(targets)
    return loss / max(1, count), correct / max(1, count)
