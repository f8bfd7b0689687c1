"""The data and model sections of a scenario: examples, their partition, the network."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedunlearn.names import nearest
from fedunlearn.settings import (
    OneName,
    Positive,
    Seed,
    Settings,
    SeveralNames,
    Share,
)

# The group of entry points by which packages register data sets: functions of DataSettings.
DATASETS = "fedunlearn.datasets"
BUILT_IN = ("csv", "digits", "huggingface", "idx")
DEFAULT_NODES = 10
DEFAULT_CLASSES_PER_NODE = 2

# The keys that a source requires, with the values that errors suggest.
REQUIRED: dict[str, dict[str, str]] = {
    "idx": {"path": "a folder in MNIST's layout"},
    "csv": {
        "path": "a .csv or .csv.gz",
        "label": "a column, or a comparison on one as in 'num > 0'",
    },
    "huggingface": {
        "path": "a data set's name on the Hugging Face hub, or a local folder",
        "label": "a column, or a comparison on one as in 'num > 0'",
    },
}
# The sources that have each of these keys.
SOURCES_WITH: dict[str, tuple[str, ...]] = {
    "label": ("csv", "huggingface"),
    "text": ("csv", "huggingface"),
    "by": ("csv", "huggingface"),
    "missing": ("csv", "huggingface"),
    "words": ("csv", "huggingface"),
    "encoder": ("csv", "huggingface"),
    "zero-is-missing": ("csv",),
    "input": ("huggingface",),
}


class BackdoorSettings(Settings):
    """A backdoor that is added to training data, so that its removal can be measured.

    Attributes:
        nodes: Names of the nodes whose data get the trigger, or the node with most examples.
        share: Share of their images of other classes that get it; at least one image.
        target: Name of the class that these images are labelled with.
    """

    nodes: SeveralNames | OneName = "largest"
    share: Share = 0.5
    target: OneName = 0


class ShiftedLabelsSettings(Settings):
    """Wrong labels in the training data of some nodes, so that their removal can be measured.

    Attributes:
        nodes: Names of the nodes whose labels are shifted, or the node with most examples.
        share: Share of their examples that get a wrong label; at least one example.
        shift: Number that is added to the number of a class, modulo the number of classes; half of
            the number of classes where it is left out.
        watermark: Whether these examples, which have to be images, get a watermark of their node,
            by which a model distinguishes them.
    """

    nodes: SeveralNames | OneName = "largest"
    share: Share = 0.8
    shift: Annotated[int, Field(gt=0)] | None = None
    watermark: bool = False


class DataSettings(Settings):
    """The examples and their partition over the nodes.

    Attributes:
        name: The data set: digits, idx, csv, huggingface, or one of another package, which may use
            any of the keys below.
        path: idx: a folder in MNIST's layout; csv: a .csv or .csv.gz; huggingface: a name on the
            hub, or a local folder.
        input: huggingface: the column of images.
        text: csv, huggingface: columns of text, joined; nothing else becomes a feature.
        encoder: csv, huggingface: the frozen encoder that turns texts into features, ``minilm``;
            None for token ids.
        label: csv, huggingface: a column, or a comparison on one, as ``num > 0``.
        missing: csv, huggingface: texts that mean that a value is missing, as ``NA`` or ``?``.
        words: csv, huggingface: columns that hold words although most of their cells are numbers.
        zero_is_missing: csv: columns in which 0 means that the value is missing.
        limit: Largest number of training examples.
        partition: The rule of the partition over the nodes.
        alpha: dirichlet: its concentration.
        classes_per_node: pathological: number of classes of a node; else None.
        class_order: pathological: how classes are assigned to nodes, ``drawn`` or
            ``consecutive``; else None.
        by: natural: the column that names the node; never a feature.
        nodes: Number of nodes; natural: None until the data has been read.
        seed: Seed of all draws of the data.
        backdoor: The backdoor in the data of some nodes, if there is one.
        shifted_labels: The wrong labels in the data of some nodes, if there are some.
    """

    name: str = "digits"
    path: Path | None = Field(None, strict=False)
    input: str | None = None
    text: tuple[str, ...] = Field((), strict=False)
    encoder: Literal["minilm"] | None = None
    label: str | None = None
    missing: tuple[str, ...] = Field((), strict=False)
    words: tuple[str, ...] = Field((), strict=False)
    zero_is_missing: tuple[str, ...] = Field((), strict=False)
    limit: Annotated[int, Field(gt=0)] | None = None
    partition: Literal["iid", "dirichlet", "pathological", "natural"] = "dirichlet"
    alpha: Positive = 0.1
    classes_per_node: Annotated[int, Field(ge=1)] | None = None
    class_order: Literal["drawn", "consecutive"] | None = None
    by: str | None = None
    nodes: Annotated[int, Field(ge=2)] | None = None
    seed: Seed = 0
    backdoor: BackdoorSettings | None = None
    shifted_labels: ShiftedLabelsSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_partition(cls, data: object) -> object:
        """Set the default number of nodes, unless data names them, and of classes of a node."""
        if not isinstance(data, dict):
            return data
        if data.get("partition") == "natural":
            return data
        defaults = {"nodes": DEFAULT_NODES}
        if data.get("partition") == "pathological" and "classes-per-node" not in data:
            defaults["classes_per_node"] = DEFAULT_CLASSES_PER_NODE
        return defaults | data

    @model_validator(mode="after")
    def _name_is_installed(self) -> DataSettings:
        """Refuse a data set that no installed package has; built-in names need no look-up."""
        if self.name not in BUILT_IN:
            known = sorted({*BUILT_IN, *(point.name for point in entry_points(group=DATASETS))})
            if self.name not in known:
                raise ValueError(
                    f"name: data set {self.name!r} is unknown{nearest(self.name, known)}; "
                    f"installed are {', '.join(known)}"
                )
        return self

    @model_validator(mode="after")
    def _keys_of_the_source(self) -> DataSettings:
        given: dict[str, object] = {
            "path": self.path,
            "label": self.label,
            "text": self.text,
            "by": self.by,
            "missing": self.missing,
            "words": self.words,
            "encoder": self.encoder,
            "zero-is-missing": self.zero_is_missing,
            "input": self.input,
        }
        for key, what in REQUIRED.get(self.name, {}).items():
            if not given[key]:
                raise ValueError(f"{key}: is required for name = {self.name!r}; give {what}")
        built_in = self.name in BUILT_IN
        if built_in and self.partition == "natural" and self.name not in SOURCES_WITH["by"]:
            raise ValueError(
                "partition: 'natural' needs name = 'csv' or 'huggingface', where a column names "
                "nodes"
            )
        for key, sources in SOURCES_WITH.items():
            if built_in and given[key] and self.name not in sources:
                which = " or ".join(repr(name) for name in sources)
                raise ValueError(f"{key}: is for name = {which}, not {self.name!r}; leave it out")
        if self.name == "huggingface" and bool(self.input) == bool(self.text):
            raise ValueError(
                "input: give name = 'huggingface' either input, a column of images, or text, "
                "columns of text"
            )
        if self.encoder and not self.text:
            raise ValueError(
                "encoder: encodes texts; list columns of text in text, or leave it out"
            )
        if self.text and self.zero_is_missing:
            raise ValueError(
                "zero-is-missing: is for columns of numbers, which text leaves out; drop one"
            )
        return self

    @model_validator(mode="after")
    def _keys_of_the_partition(self) -> DataSettings:
        if self.name in BUILT_IN and self.partition == "natural" and self.by is None:
            raise ValueError(
                "by: is required for partition = 'natural'; give the column that names the node"
            )
        of_classes = {
            "classes-per-node": self.classes_per_node,
            "class-order": self.class_order,
        }
        for key, given in of_classes.items():
            if self.partition != "pathological" and given is not None:
                raise ValueError(
                    f"{key}: is for partition = 'pathological', not {self.partition!r}; leave it "
                    "out"
                )
        return self


class ModelSettings(Settings):
    """The network that is trained.

    Attributes:
        name: Name of the network, or ``package.module:factory``.
        hidden: mlp: widths of its hidden layers; one of 32 units where they are left out.
    """

    name: str = "mlp"
    hidden: tuple[Annotated[int, Field(gt=0)], ...] | None = Field(None, strict=False, min_length=1)

    @model_validator(mode="after")
    def _hidden_layers_of_the_mlp(self) -> ModelSettings:
        if self.hidden is not None and self.name != "mlp":
            raise ValueError(f"hidden: is for name = 'mlp', not {self.name!r}; leave it out")
        return self
