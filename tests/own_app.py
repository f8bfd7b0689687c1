"""A small Flower app of a user, with normalisation and dropout, for tests in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg, Result, Strategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from fedunlearn.flower import RememberingStrategy, unlearnable

NODES = 4
EACH = 40
CLASSES = 3


class Net(nn.Module):
    """A network whose state is more than its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, 12, bias=False),  # normalisation takes a bias away
            nn.BatchNorm1d(12),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(12, CLASSES),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layers(inputs)
        return outputs


class Rows(Dataset[tuple[Tensor, Tensor]]):
    """A map-style dataset that notes which of its examples are read."""

    def __init__(self, node: int) -> None:
        generator = torch.Generator().manual_seed(node)
        self.targets = torch.randint(0, CLASSES, (EACH,), generator=generator)
        centres = torch.tensor([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])
        noise = torch.randn(EACH, 2, generator=generator)
        self.inputs = centres[self.targets] + 0.8 * noise
        self.read: list[int] = []

    def __len__(self) -> int:
        return EACH

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        self.read.append(place)
        return self.inputs[place], self.targets[place]


def initial() -> ArrayRecord:
    torch.manual_seed(0)
    return ArrayRecord(Net().state_dict())


@dataclass
class OwnApp:
    """The app, and what its own training and evaluation have read.

    Attributes:
        uses_kept: Whether its training asks what may be trained on.
        model: Builds the network.
        options: Further arguments of ``unlearnable``.
        held_out: Whether nodes hold some examples out of training.
        trained_on: By node, the places of the examples in all batches of training so far.
        evaluated_on: The same for evaluation.
    """

    uses_kept: bool = True
    model: Callable[[], nn.Module] = Net
    options: Mapping[str, Any] = field(default_factory=dict)
    held_out: bool = True
    trained_on: dict[int, list[int]] = field(default_factory=dict)
    evaluated_on: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.app = ClientApp()
        self.forgetting = unlearnable(
            self.app,
            model=self.model,
            loss=nn.functional.cross_entropy,
            data=self.load,
            **self.options,
        )
        self.app.train()(self.train)
        self.app.evaluate()(self.evaluate)

    def load(self, context: Context) -> object:
        node = int(str(context.node_config["partition-id"]))
        return (Rows(node), Rows(100 + node)) if self.held_out else Rows(node)

    def _kept(self, context: Context) -> tuple[Rows, Any]:
        rows = Rows(int(str(context.node_config["partition-id"])))
        return rows, self.forgetting.kept(context, rows) if self.uses_kept else rows

    def train(self, message: Message, context: Context) -> Message:
        rows, remaining = self._kept(context)
        node = int(str(context.node_config["partition-id"]))
        model = self.model()
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        model.train()
        torch.manual_seed(node)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
        for inputs, targets in DataLoader(remaining, batch_size=8, shuffle=True, drop_last=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        self.trained_on.setdefault(node, []).extend(rows.read)
        content = {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"num-examples": len(remaining)}),
        }
        return Message(RecordDict(content), reply_to=message)  # type: ignore[arg-type]

    def evaluate(self, message: Message, context: Context) -> Message:
        rows, remaining = self._kept(context)
        node = int(str(context.node_config["partition-id"]))
        model = self.model().eval()
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        right = sum(
            int((model(inputs).argmax(1) == targets).sum())
            for inputs, targets in DataLoader(remaining, batch_size=8)
        )
        self.evaluated_on.setdefault(node, []).extend(rows.read)
        metrics = MetricRecord({"num-examples": len(remaining), "right": right})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)


def trained_by(
    grid: Any, strategy: Strategy | None = None, rounds: int = 6
) -> tuple[Result, RememberingStrategy]:
    """Train the app, and return what its ServerApp has then."""
    remembering = RememberingStrategy(strategy or FedAvg(fraction_evaluate=0.0))
    return remembering.start(grid, initial(), num_rounds=rounds), remembering
