"""A scenario's data and model as a Task."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedunlearn.data.sources import Split, load_split, resolve_path
from fedunlearn.models.catalogue import make_model
from fedunlearn.risk.linear_head import cross_entropy_loss, one_vs_rest_loss, squared_loss
from fedunlearn.risk.task import Loss
from fedunlearn.scenario.data import DataSettings, ModelSettings
from fedunlearn.scenario.loading import LoadedScenario
from fedunlearn.settings import Solver

LOSSES: dict[Solver, Loss] = {
    "averaging": cross_entropy_loss,
    "logistic": cross_entropy_loss,
    "ridge": squared_loss,
    "one-vs-rest": one_vs_rest_loss,
}


class ScenarioTask:
    """Classification on a scenario's data, pickled as its settings and loaded where it is used."""

    def __init__(
        self, data: DataSettings, model: ModelSettings, solver: Solver = "averaging"
    ) -> None:
        """Use these settings, without loading any data yet.

        Args:
            data: The examples.
            model: The network.
            solver: The solver of training, which says the loss.
        """
        self._data = data
        self._model = model
        self._solver = solver

    @property
    def split(self) -> Split:
        """All examples of all nodes, for evaluation; a node uses its own only."""
        return load_split(self._data)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of the solver, mean over examples."""
        return LOSSES[self._solver](outputs, targets)

    def model(self) -> nn.Module:
        """A new network."""
        split = self.split
        return make_model(self._model.name, split.inputs, split.classes, self._model.hidden)

    def data(self, node: int) -> tuple[Tensor, Tensor]:
        """A node's inputs and targets."""
        split = self.split
        indices = torch.from_numpy(split.nodes[node])
        return split.inputs[indices], split.targets[indices]

    def held_out(self, node: int) -> tuple[Tensor, Tensor] | None:
        """A node's share of the scenario's test data; None where there are fewer than nodes."""
        split = self.split
        inputs, targets = (
            values[node :: len(split.nodes)] for values in (split.test_inputs, split.test_targets)
        )
        return (inputs, targets) if len(targets) else None


def scenario_task(loaded: LoadedScenario) -> ScenarioTask:
    """Return the task of a scenario's nodes."""
    scenario = loaded.settings
    data = resolve_path(scenario.data, loaded.folder)
    return ScenarioTask(data, scenario.model, scenario.training.solver)
