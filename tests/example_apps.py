"""The apps in examples/, run in this process."""

from __future__ import annotations

import importlib
import random
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict
from flwr.serverapp.strategy import FedAvg, Strategy

from tests.inline_grid import InlineGrid

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PACKAGES = {"images": "images", "text": "texts", "hospitals": "hospitals"}


class InlineApp:
    """An app whose nodes live in this process."""

    def __init__(self, name: str, side: str, nodes: int, config: dict[str, Any]) -> None:
        folder = EXAMPLES / name / side
        package = PACKAGES[name]
        document = tomllib.loads((folder / "pyproject.toml").read_text())
        known = document["tool"]["flwr"]["app"]["config"]
        assert set(config) <= set(known)
        self.config = {**known, **config}
        for module in [m for m in sys.modules if m.partition(".")[0] == package]:
            del sys.modules[module]
        sys.path.insert(0, str(folder))
        try:
            self.client: Any = importlib.import_module(f"{package}.client_app")
            self.server: Any = importlib.import_module(f"{package}.server_app")
            self.task: ModuleType = importlib.import_module(f"{package}.task")
        finally:
            sys.path.remove(str(folder))
        self.grid = InlineGrid(self.client.app, nodes)
        for context in self.contexts:
            context.run_config = self.config
        self.context = Context(
            run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=self.config
        )

    @property
    def contexts(self) -> list[Context]:
        """Of the nodes, by number."""
        return list(self.grid._contexts.values())

    def run(self) -> None:
        """Run the ServerApp's main function."""
        random.seed(0)
        torch.manual_seed(0)
        self.server.app(self.grid, self.context)

    def train_on(self, arrays: ArrayRecord, rounds: int, strategy: Strategy | None = None) -> None:
        """Train further by the nodes' own ``train``; nodes that refuse are left out."""
        config = {"learning-rate": 0.001, "proximal-mu": 0.0}
        chosen = strategy or FedAvg(fraction_evaluate=0.0)
        chosen.start(self.grid, arrays, num_rounds=rounds, train_config=ConfigRecord(config))
