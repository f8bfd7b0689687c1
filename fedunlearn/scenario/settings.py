"""The sections of a scenario, as frozen settings with their defaults and bounds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class Settings(BaseModel):
    """Base of all settings: frozen, kebab-case in files, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=_kebab,
        validate_by_name=True,
        validate_by_alias=True,
        allow_inf_nan=False,
    )


DEFAULT_NODES = 10

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0, strict=False)]
NotNegative = Annotated[float, Field(ge=0, strict=False)]
Share = Annotated[float, Field(gt=0, le=1, strict=False)]
NodeNumbers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1)]


class DataSettings(Settings):
    """Which examples there are and how they lie over the nodes.

    Attributes:
        name: Where the examples come from.
        path: idx: a folder in MNIST's layout; csv: a .csv or .csv.gz.
        label: csv: a column, or a comparison on one, as ``num > 0``.
        zero_is_missing: csv: columns in which 0 means that the value is missing.
        limit: At most so many training examples.
        partition: How they lie over the nodes.
        alpha: dirichlet: its concentration.
        by: natural: the column that names the node; never a feature.
        nodes: How many; natural: None until the data has been read.
        seed: Of all draws of the data.
    """

    name: Literal["digits", "idx", "csv"] = "digits"
    path: Path | None = Field(None, strict=False)
    label: str | None = None
    zero_is_missing: tuple[str, ...] = Field((), strict=False)
    limit: Annotated[int, Field(gt=0)] | None = None
    partition: Literal["iid", "dirichlet", "natural"] = "dirichlet"
    alpha: Positive = 0.1
    by: str | None = None
    nodes: Annotated[int, Field(ge=2)] | None = None
    seed: Seed = 0

    @model_validator(mode="before")
    @classmethod
    def _nodes_where_not_natural(cls, data: Any) -> Any:
        """Fill in the default number of nodes, unless the data names the nodes."""
        if not isinstance(data, dict):
            return data
        if "text" in data:
            raise ValueError(
                "text: columns of text cannot be read yet; leave it out and use a csv of numbers "
                "and short words"
            )
        return data if data.get("partition") == "natural" else {"nodes": DEFAULT_NODES} | data

    @model_validator(mode="after")
    def _keys_of_the_source(self) -> DataSettings:
        if self.name == "idx" and self.path is None:
            raise ValueError("path: is required for name = 'idx'; give a folder in MNIST's layout")
        if self.name == "csv":
            if self.path is None:
                raise ValueError("path: is required for name = 'csv'; give a .csv or .csv.gz")
            if self.label is None:
                raise ValueError(
                    "label: is required for name = 'csv'; give a column, or a comparison on one "
                    "as in 'num > 0'"
                )
            return self
        if self.partition == "natural":
            raise ValueError("partition: 'natural' needs name = 'csv', where a column names nodes")
        for key, given in (
            ("label", self.label),
            ("by", self.by),
            ("zero-is-missing", self.zero_is_missing),
        ):
            if given:
                raise ValueError(f"{key}: is for name = 'csv', not {self.name!r}; leave it out")
        return self

    @model_validator(mode="after")
    def _by_where_natural(self) -> DataSettings:
        if self.partition == "natural" and self.by is None:
            raise ValueError(
                "by: is required for partition = 'natural'; give the column that names the node"
            )
        return self


class ModelSettings(Settings):
    """Which network is trained."""

    name: str = "mlp"


class TrainingSettings(Settings):
    """Federated averaging: what the server and the nodes do until the model is trained."""

    rounds: Annotated[int, Field(gt=0)] = 60
    local_epochs: Annotated[int, Field(gt=0)] = 2
    batch_size: Annotated[int, Field(gt=0)] = 32
    learning_rate: Positive = 0.2
    learning_rate_decay: Share = 0.98
    weight_decay: NotNegative = 1e-3
    seed: Seed = 1

    def horizon(self, examples: Iterable[int]) -> float:
        """Return how far gradient flow goes in the time of training: the sum of the step sizes.

        A node takes one step a batch; nodes weigh as federated averaging weighs them.

        Args:
            examples: How many each node holds.
        """
        sizes = list(examples)
        steps = sum(size * math.ceil(size / self.batch_size) for size in sizes) / sum(sizes)
        rates = sum(self.learning_rate * self.learning_rate_decay**r for r in range(self.rounds))
        return rates * self.local_epochs * steps


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
