"""The model, the data and the local training of the app."""

import gzip
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, pad
from torch.utils.data import DataLoader, Dataset, TensorDataset

CLASSES = 10
HELD_OUT = 5  # every fifth example of a node is for evaluation


class Net(nn.Module):
    """Two convolutions with BatchNorm, dropout and a linear layer."""

    def __init__(self) -> None:
        """Build the layers."""
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.25), nn.Linear(512, CLASSES))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (n, 1, height, width) to logits (n, classes)."""
        return self.head(self.features(images))


def load_data(context: Context) -> tuple[Dataset, Dataset]:
    """Return a node's examples: those to train on, and those held out."""
    config = context.run_config
    images, labels = read_images(str(config["data-path"]), int(config["examples"]))
    nodes = int(context.node_config["num-partitions"])
    parts = dirichlet(labels, nodes, float(config["alpha"]), int(config["seed"]))
    own = torch.as_tensor(parts[int(context.node_config["partition-id"])])
    held_out = torch.arange(len(own)) % HELD_OUT == 0
    return tuple(
        TensorDataset(images[own[chosen]], labels[own[chosen]]) for chosen in (~held_out, held_out)
    )


@lru_cache(maxsize=1)
def read_images(path: str, examples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Read scikit-learn's digits, or the files of MNIST's format in a folder.

    Args:
        path: The folder; empty for the digits.
        examples: How many to read; 0 for all.

    Returns:
        Images between 0 and 1 (n, 1, height, width) and labels (n,).
    """
    if path:
        images = read_idx(Path(path) / "train-images-idx3-ubyte.gz") / 255.0
        labels = read_idx(Path(path) / "train-labels-idx1-ubyte.gz")
    else:
        digits = load_digits()
        images, labels = digits.images / 16.0, digits.target
    until = examples or len(labels)
    tensor = torch.as_tensor(images[:until], dtype=torch.float32)
    return tensor[:, None], torch.as_tensor(labels[:until], dtype=torch.int64)


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped file of MNIST's format: two zeros, type, dimensions, sizes, bytes."""
    with gzip.open(path) as file:
        content = file.read()
    sizes = np.frombuffer(content, ">i4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(sizes)


def dirichlet(labels: torch.Tensor, nodes: int, alpha: float, seed: int) -> list[np.ndarray]:
    """Divide examples among nodes; every class by shares drawn from a Dirichlet distribution.

    Args:
        labels: Of all examples (n,).
        nodes: How many.
        alpha: Of the distribution; the smaller, the more do the nodes differ.
        seed: Of the draw, which is the same on all nodes.

    Returns:
        The places of each node's examples.
    """
    generator = np.random.default_rng(seed)
    parts: list[list[int]] = [[] for _ in range(nodes)]
    for label in range(CLASSES):
        places = generator.permutation(np.flatnonzero(labels.numpy() == label))
        shares = generator.dirichlet([alpha] * nodes).cumsum()[:-1]
        divided = np.split(places, (shares * len(places)).astype(int))
        for part, some in zip(parts, divided, strict=True):
            part.extend(some.tolist())
    return [np.sort(part) for part in parts]


def augmented(images: torch.Tensor, flip: bool) -> torch.Tensor:
    """Shift a batch by at most one pixel, and flip half of its images where that makes sense."""
    height, width = images.shape[2:]
    top, left = torch.randint(3, (2,)).tolist()
    images = pad(images, (1, 1, 1, 1))[:, :, top : top + height, left : left + width]
    if flip:
        chosen = torch.rand(len(images)) < 0.5
        images[chosen] = images[chosen].flip(3)
    return images


def train_model(
    model: nn.Module, loader: DataLoader, epochs: int, learning_rate: float, flip: bool
) -> float:
    """Train by AdamW and return the mean loss of the batches."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    model.train()
    losses = []
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            loss = cross_entropy(model(augmented(images, flip)), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return float(np.mean(losses)) if losses else 0.0


@torch.no_grad()
def evaluate_model(model: nn.Module, loader: DataLoader) -> tuple[float, float]:
    """Return the mean loss and the accuracy."""
    model.eval()
    loss, correct, count = 0.0, 0, 0
    for images, labels in loader:
        logits = model(images)
        loss += cross_entropy(logits, labels, reduction="sum").item()
        correct += int((logits.argmax(1) == labels).sum())
        count += len(labels)
    return loss / max(1, count), correct / max(1, count)
