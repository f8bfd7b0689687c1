"""A scenario made ready to run: data, requests and methods, everything checked that can be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fedunlearn.evaluation.metrics import Parts
from fedunlearn.federation.trained_model import Recordable
from fedunlearn.lab.forgetting import resolve_requests, split_parts
from fedunlearn.lab.scenario_task import ScenarioTask, scenario_task
from fedunlearn.networks import build_model
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.scenario.loading import LoadedScenario
from fedunlearn.scenario.sections import Scenario
from fedunlearn.settings import TrainingSettings
from fedunlearn.unlearning.method import UnlearningMethod
from fedunlearn.unlearning.registry import make_method


@dataclass(frozen=True)
class Experiment:
    """What is trained, what is asked to be forgotten, and how.

    Attributes:
        name: Of the scenario.
        scenario: Its settings, with the number of nodes that the data has.
        task: Data and model.
        requests: One, or several that follow each other.
        methods: By the names that the scenario gives them; the first sets the client compute of
            those that adapt to it.
    """

    name: str
    scenario: Scenario
    task: ScenarioTask
    requests: tuple[ForgetSet, ...]
    methods: Mapping[str, UnlearningMethod[Any]]

    @classmethod
    def prepare(cls, loaded: LoadedScenario) -> Experiment:
        """Load the data and check everything that can be checked before the first round.

        Args:
            loaded: The scenario.

        Returns:
            The experiment.
        """
        scenario = loaded.settings
        task = scenario_task(loaded)
        build_model(task.model)
        scenario = scenario.with_nodes(len(task.split.nodes))
        requests = resolve_requests(scenario.forget, task.split)
        tables = scenario.unlearning.of_method
        known = {
            name: make_method(name, tables.get(name, {}))
            for name in (*scenario.unlearning.methods, *tables)
        }
        methods = {name: known[name] for name in scenario.unlearning.methods}
        return cls(loaded.name, scenario, task, requests, methods)

    @cached_property
    def parts(self) -> tuple[Parts, ...]:
        """For each request, the examples of what has left by then, and of what stays."""
        return tuple(split_parts(forget, self.task.split) for forget in self.requests)

    @property
    def retained(self) -> tuple[int, ...]:
        """How many examples stay after each request."""
        return tuple(len(parts.retain[0]) for parts in self.parts)

    def training(self, seed: int) -> TrainingSettings:
        """Return the training's settings with the seed of a model."""
        return self.scenario.training.model_copy(update={"seed": seed})

    @property
    def oracle_seeds(self) -> range:
        """Seeds of the retrained models; the first is training's own."""
        first = self.scenario.training.seed
        return range(first, first + self.scenario.evaluation.oracles)

    @property
    def replica_seeds(self) -> range:
        """Seeds of the models that forget: training's own, then those of the further ones."""
        first = self.scenario.training.seed
        return range(first, first + 1 + self.scenario.evaluation.replicas)

    def names(self) -> dict[str, list[str]]:
        """Return the names of nodes and classes, in the order of the numbers used inside."""
        split = self.task.split
        return {"nodes": list(split.node_names), "classes": list(split.labels)}

    def to_record(self) -> list[Recordable]:
        """Return what the methods want recorded."""
        return [item for method in self.methods.values() for item in method.to_record()]

    def as_run(self) -> dict[str, Any]:
        """Return the scenario with every setting of every method that runs, defaults included."""
        options: dict[str, Any] = {"mode": "json", "by_alias": True, "exclude_none": True}
        tables: dict[str, Any] = self.scenario.model_dump(**options)
        del tables["unlearning"]["of-method"]
        for name, method in self.methods.items():
            other = {} if name == method.name else {"method": method.name}
            tables["unlearning"][name] = other | method.settings.model_dump(**options)
        return tables
