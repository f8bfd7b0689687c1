"""A scenario prepared to run: data, requests and methods, checked before the first round."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import BaseModel, JsonValue

from fedunlearn.evaluation.metrics import Parts
from fedunlearn.federation.trained_model import Recordable
from fedunlearn.lab.forget_requests import resolve_requests, split_parts
from fedunlearn.lab.scenario_task import ScenarioTask, scenario_task
from fedunlearn.networks import build_model
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.reporting.results import NodeAndClassNames
from fedunlearn.scenario.loading import LoadedScenario
from fedunlearn.scenario.sections import Scenario
from fedunlearn.settings import TrainingSettings
from fedunlearn.unlearning.method import UnlearningMethod
from fedunlearn.unlearning.registry import make_method


@dataclass(frozen=True)
class Experiment:
    """The data, the model, the requests and the methods of a scenario.

    Attributes:
        name: Name of the scenario.
        scenario: Its settings, with the number of nodes that the data has.
        task: Data and model.
        requests: One forget set, or several that follow each other.
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
        """For each request the examples that have left by then, and those that stay."""
        return tuple(split_parts(forget, self.task.split) for forget in self.requests)

    @property
    def retained(self) -> tuple[int, ...]:
        """Number of examples that stay after each request."""
        return tuple(len(parts.retain[0]) for parts in self.parts)

    def training(self, seed: int) -> TrainingSettings:
        """Return the settings of training with the seed of a model."""
        return self.scenario.training.model_copy(update={"seed": seed})

    @property
    def oracle_seeds(self) -> range:
        """Seeds of the retrained models; the first is training's own."""
        first = self.scenario.training.seed
        return range(first, first + self.scenario.evaluation.oracles)

    @property
    def replica_seeds(self) -> range:
        """Seeds of the models that forget: training's own, then those of the replicas."""
        first = self.scenario.training.seed
        return range(first, first + 1 + self.scenario.evaluation.replicas)

    def names(self) -> NodeAndClassNames:
        """Return the names of nodes and classes, in the order of the numbers used inside."""
        split = self.task.split
        return NodeAndClassNames(nodes=tuple(split.node_names), classes=tuple(split.labels))

    def to_record(self) -> list[Recordable]:
        """Return what has to be recorded for the methods."""
        return [item for method in self.methods.values() for item in method.to_record()]

    def as_run(self) -> dict[str, JsonValue]:
        """Return the scenario with every setting of every method that runs, defaults included."""

        def settings_of(settings: BaseModel) -> dict[str, JsonValue]:
            return settings.model_dump(mode="json", by_alias=True, exclude_none=True)

        unlearning = settings_of(self.scenario.unlearning)
        del unlearning["of-method"]
        for name, method in self.methods.items():
            renamed: dict[str, JsonValue] = {} if name == method.name else {"method": method.name}
            unlearning[name] = renamed | settings_of(method.settings)
        return settings_of(self.scenario) | {"unlearning": unlearning}


# The scenarios that this process has prepared, the latest last.
_PREPARED: OrderedDict[tuple[str, str, str], Experiment] = OrderedDict()
AT_MOST_PREPARED = 4


def prepared(loaded: LoadedScenario) -> Experiment:
    """Return a scenario prepared to run, the same object again for the jobs of one process."""
    key = (loaded.name, str(loaded.folder), loaded.settings.model_dump_json())
    if key not in _PREPARED:
        _PREPARED[key] = Experiment.prepare(loaded)
        while len(_PREPARED) > AT_MOST_PREPARED:
            _PREPARED.popitem(last=False)
    _PREPARED.move_to_end(key)
    return _PREPARED[key]
