"""Which examples a scenario has, how they lie over the nodes, and which network learns them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fedunlearn.scenario.settings import Positive, Seed, Settings

DEFAULT_NODES = 10


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
