"""The sections of a scenario that say what is forgotten, how, and what is measured."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fedunlearn.scenario.data import DataSettings, ModelSettings
from fedunlearn.scenario.settings import NodeNumbers, Seed, Settings, TrainingSettings


class ForgetSettings(Settings):
    """What is to be forgotten.

    Attributes:
        kind: Whole nodes, a share of the examples, or a class.
        nodes: Who leaves, or whose examples do; None for everyone's (samples, class).
        count: How many of the largest nodes; None for one.
        fraction: samples: the share of the examples of each node.
        class_: class: a label, or the one with most examples on these nodes.
        seed: samples: of the draw.
    """

    kind: Literal["node", "samples", "class"] = "node"
    nodes: NodeNumbers | Literal["largest"] | None = None
    count: Annotated[int, Field(gt=0)] | None = None
    fraction: Annotated[float, Field(gt=0, lt=1, strict=False)] = 0.1
    class_: Annotated[int, Field(ge=0)] | Literal["commonest"] | None = Field(None, alias="class")
    seed: Seed = 0

    @model_validator(mode="before")
    @classmethod
    def _largest_where_nodes_leave(cls, data: Any) -> Any:
        """Let the largest node leave, where nobody says who does."""
        if not isinstance(data, dict) or data.get("kind", "node") != "node":
            return data
        return data if data.get("nodes") is not None else data | {"nodes": "largest"}

    @model_validator(mode="after")
    def _count_of_the_largest(self) -> ForgetSettings:
        if self.count is not None and self.nodes != "largest":
            raise ValueError("count: is for nodes = 'largest'; set that, or leave count out")
        return self

    @model_validator(mode="after")
    def _class_where_needed(self) -> ForgetSettings:
        if self.kind == "class" and self.class_ is None:
            raise ValueError("class: is required for kind = 'class'; give a label, or 'commonest'")
        return self


class UnlearningSettings(Settings):
    """Which methods run; each one's own settings are checked by the method itself."""

    methods: tuple[str, ...] = Field(("cubic-newton", "fine-tune"), strict=False, min_length=1)
    recovery_rounds: Annotated[int, Field(ge=0)] = 0
    of_method: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather_tables(cls, data: Any) -> Any:
        """Move the tables ``[unlearning.<method>]`` under one key."""
        if not isinstance(data, dict):
            return data
        tables = {key: value for key, value in data.items() if isinstance(value, dict)}
        rest = {key: value for key, value in data.items() if key not in tables}
        return rest | {"of_method": tables.pop("of_method", {}) | tables}


class EvaluationSettings(Settings):
    """What the results are held against."""

    oracles: Annotated[int, Field(ge=1)] = 3


class Scenario(Settings):
    """One experiment, whole."""

    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    forget: ForgetSettings = ForgetSettings()
    unlearning: UnlearningSettings = UnlearningSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    def with_nodes(self, nodes: int) -> Scenario:
        """Return the scenario with the number of nodes that its data has."""
        data = self.data.model_copy(update={"nodes": nodes})
        return self.model_copy(update={"data": data})
