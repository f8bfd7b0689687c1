"""The sections of a scenario, as frozen settings with their defaults and bounds."""

from __future__ import annotations

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


Seed = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0, strict=False)]
NotNegative = Annotated[float, Field(ge=0, strict=False)]
Share = Annotated[float, Field(gt=0, le=1, strict=False)]
NodeNumbers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1)]


class DataSettings(Settings):
    """Which examples there are and how they lie over the nodes."""

    name: Literal["digits", "idx"] = "digits"
    path: Path | None = Field(None, strict=False)
    limit: Annotated[int, Field(gt=0)] | None = None
    partition: Literal["iid", "dirichlet"] = "dirichlet"
    alpha: Positive = 0.1
    nodes: Annotated[int, Field(ge=2)] = 10
    seed: Seed = 0

    @model_validator(mode="after")
    def _path_where_needed(self) -> DataSettings:
        if self.name == "idx" and self.path is None:
            raise ValueError("path: is required for name = 'idx'; give a folder in MNIST's layout")
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


class ForgetSettings(Settings):
    """What is to be forgotten."""

    kind: Literal["node", "samples", "class"] = "node"
    nodes: NodeNumbers | Literal["largest"] = "largest"
    fraction: Annotated[float, Field(gt=0, lt=1, strict=False)] = 0.1
    class_: Annotated[int, Field(ge=0)] | None = Field(None, alias="class")
    seed: Seed = 0

    @model_validator(mode="after")
    def _class_where_needed(self) -> ForgetSettings:
        if self.kind == "class" and self.class_ is None:
            raise ValueError("class: is required for kind = 'class'; give a label")
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
