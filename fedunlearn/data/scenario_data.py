"""What a data set gives a scenario, and data sets by name through entry points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points

import numpy as np
import torch
from torch import Tensor

from fedunlearn.data.draw import Indices
from fedunlearn.errors import FedunlearnError, ScenarioError
from fedunlearn.names import Names
from fedunlearn.scenario.data import DATASETS, DataSettings

Examples = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class ScenarioData:
    """A data set as it was read, before its examples are assigned to nodes.

    Example:
        >>> import numpy as np
    import torch
        >>> from fedunlearn import ScenarioData
        >>> inputs, targets = torch.rand(12, 4), torch.arange(12) % 3
        >>> data = ScenarioData(train=(inputs[:9], targets[:9]), test=(inputs[9:], targets[9:]))
        >>> list(data.class_names)
        ['0', '1', '2']

    Attributes:
        train: Training inputs (n, ...), float32, or int64 where they are token ids, and targets
            (n,), int64, from 0 on.
        test: Test inputs (t, ...) and targets (t,).
        labels: The names of the classes, by the numbers in the targets; None where their numbers
            are their names.
        groups: The number of the node of each training example, shape (n,), where the data set
            says so (``partition = "natural"``).
        nodes: The names of these nodes, by number; None where the data set names no nodes.
    """

    train: Examples
    test: Examples
    labels: Names | None = None
    groups: Indices | None = None
    nodes: Names | None = None

    @property
    def class_names(self) -> Names:
        """The names of the classes."""
        if self.labels is not None:
            return self.labels
        largest = int(torch.cat([self.train[1], self.test[1]]).max())
        return Names.numbered("class", largest + 1)


Reader = Callable[[DataSettings], ScenarioData]


def read(settings: DataSettings) -> ScenarioData:
    """Read the data set that the settings name, with the function that is registered for it.

    Args:
        settings: The section ``[data]`` of a scenario.

    Returns:
        What was read, checked for its form.

    Raises:
        ScenarioError: No such data set is installed, it cannot be imported, it fails, or what it
            returns cannot be used.
        FedunlearnError: The data set's own function raised it.
    """
    for point in entry_points(group=DATASETS):
        if point.name == settings.name:
            break
    else:
        raise ScenarioError(f"data.name: {settings.name!r} is not installed")
    where = f"data.name: data set {point.name!r} ({point.value})"
    try:
        reader: Reader = point.load()
    except Exception as error:
        raise ScenarioError(
            f"{where} cannot be imported: {type(error).__name__}: {error}; reinstall its package"
        ) from error
    try:
        found = reader(settings)
    except FedunlearnError:
        raise
    except Exception as error:
        raise ScenarioError(
            f"{where} fails with {type(error).__name__}: {' '.join(str(error).split())}; "
            "correct its function, or the keys that it reads"
        ) from error
    if not isinstance(found, ScenarioData):
        raise ScenarioError(f"{where} returns {type(found).__name__}; return a ScenarioData")
    complaint = _complaint(found, settings)
    if complaint:
        raise ScenarioError(f"{where} {complaint}")
    return found


def _complaint(found: ScenarioData, settings: DataSettings) -> str | None:
    """Say what of a data set cannot be used."""
    for part, examples in (("train", found.train), ("test", found.test)):
        if not isinstance(examples, tuple) or not all(isinstance(one, Tensor) for one in examples):
            return f"has {part} examples that are not a pair of tensors; return (inputs, targets)"
        if len(examples) != 2:
            return f"has {len(examples)} tensors of {part} examples; return (inputs, targets)"
        inputs, targets = examples
        if targets.ndim != 1 or targets.dtype != torch.int64 or len(inputs) != len(targets):
            return (
                f"has {part} inputs of shape {tuple(inputs.shape)} and targets of shape "
                f"{tuple(targets.shape)} and dtype {targets.dtype}; return inputs (n, ...) and "
                "int64 targets (n,)"
            )
        if not len(targets):
            return f"has no {part} examples; return at least one"
        if int(targets.min()) < 0 or int(targets.max()) >= len(found.class_names):
            return (
                f"has {part} targets outside of 0 to {len(found.class_names) - 1}; number the "
                "classes from 0 on, one for each name in labels"
            )
        if inputs.shape[1:] != found.train[0].shape[1:] or inputs.dtype != found.train[0].dtype:
            return "has test inputs of another shape or dtype than training inputs"
    if settings.partition != "natural":
        return None
    if found.groups is None or found.nodes is None:
        return "names no nodes; choose another partition, or return groups and nodes"
    if len(found.groups) != len(found.train[1]):
        return f"has {len(found.groups)} groups for {len(found.train[1])} training examples"
    if set(np.unique(found.groups).tolist()) != set(range(len(found.nodes))):
        return (
            f"has groups that are not 0 to {len(found.nodes) - 1}; number the nodes from 0 on, one "
            "for each name in nodes, and give each of them examples"
        )
    return None
