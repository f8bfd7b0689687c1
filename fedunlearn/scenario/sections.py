"""The sections of a scenario that say what is forgotten, how, and what is measured."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fedunlearn.scenario.data import DataSettings, ModelSettings
from fedunlearn.settings import (
    OneName,
    Seed,
    Settings,
    SeveralNames,
    TrainingSettings,
)

LARGEST, COMMONEST = "largest", "commonest"


class ForgetSettings(Settings):
    """What is to be forgotten. Nodes and classes are named as the data name them.

    Attributes:
        kind: Whole nodes, a share of the examples, or a class.
        nodes: Who leaves, or whose examples do: a name, several, or ``largest``; None for
            everyone's (samples, class). In a list, every text is a name.
        count: How many of the largest nodes; samples in sequence: how many draws. None for one.
        fraction: samples: the share of the examples of each node.
        class_: class: a name, several, or ``commonest``: the one with most examples on these nodes.
            In a list, every text is a name.
        seed: samples: of the draw.
        sequential: One request after the other, in the order given, each evaluated: the nodes (the
            largest first), the classes, or ``count`` draws of samples with seeds that ascend.
    """

    kind: Literal["node", "samples", "class"] = "node"
    nodes: SeveralNames | OneName | None = None
    count: Annotated[int, Field(gt=0)] | None = None
    fraction: Annotated[float, Field(gt=0, lt=1, strict=False)] = 0.1
    class_: SeveralNames | OneName | None = Field(None, alias="class")
    seed: Seed = 0
    sequential: bool = False

    @model_validator(mode="before")
    @classmethod
    def _largest_where_nodes_leave(cls, data: Any) -> Any:
        """Let the largest node leave, where nobody says who does."""
        if not isinstance(data, dict) or data.get("kind", "node") != "node":
            return data
        return data if data.get("nodes") is not None else data | {"nodes": LARGEST}

    @model_validator(mode="after")
    def _count_where_it_counts(self) -> ForgetSettings:
        draws = self.kind == "samples" and self.sequential
        if self.count is not None and self.nodes != LARGEST and not draws:
            raise ValueError(
                "count: is for nodes = 'largest', or for samples with sequential = true; leave it "
                "out"
            )
        if draws and self.nodes == LARGEST and self.count is not None:
            raise ValueError("count: could mean nodes or draws here; name the nodes")
        return self

    @model_validator(mode="after")
    def _class_where_needed(self) -> ForgetSettings:
        if self.kind == "class" and self.class_ is None:
            raise ValueError("class: is required for kind = 'class'; give a label, or 'commonest'")
        return self

    @model_validator(mode="after")
    def _several_in_sequence(self) -> ForgetSettings:
        several = {
            "node": self.count or (len(self.nodes) if isinstance(self.nodes, tuple) else 1),
            "samples": self.count or 1,
            "class": len(self.class_) if isinstance(self.class_, tuple) else 1,
        }
        if self.sequential and several[self.kind] < 2:
            remedy = {
                "node": "nodes = [...], or nodes = 'largest' with count",
                "samples": "count, the number of draws",
                "class": "class = [...]",
            }
            raise ValueError(
                f"sequential: there is one request only; give several by {remedy[self.kind]}"
            )
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
    """What the results are held against, and what is measured that costs more than a prediction.

    Attributes:
        oracles: How many retrained models; the first shares initialisation and order with training.
        replicas: How many further models are trained with other seeds, each sharing initialisation
            and order with an oracle, so that every method can be seen as a distribution of models.
            2 at least, or 0 for none.
        relearn: Whether models are trained on the forget set until they know it again.
    """

    oracles: Annotated[int, Field(ge=1)] = 3
    replicas: Annotated[int, Field(ge=0)] = 0
    relearn: bool = False

    @model_validator(mode="after")
    def _an_oracle_for_each(self) -> EvaluationSettings:
        if self.replicas == 1:
            raise ValueError(
                "replicas: one further model is too few for a distribution; give at least 2, or 0 "
                "for none"
            )
        if self.replicas and self.oracles <= self.replicas:
            raise ValueError(
                f"replicas: {self.replicas} further models need as many oracles and one more; "
                f"raise evaluation.oracles from {self.oracles} to {self.replicas + 1}"
            )
        return self


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
