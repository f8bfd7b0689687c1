"""A scenario's data: a data set, its test examples, and which node holds which examples."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedunlearn.data.backdoor import plant
from fedunlearn.data.draw import Indices, at_most
from fedunlearn.data.partition import consecutive, dirichlet, iid, natural, pathological
from fedunlearn.data.scenario_data import read
from fedunlearn.data.shifted_labels import shift_labels
from fedunlearn.errors import ScenarioError
from fedunlearn.names import Names
from fedunlearn.scenario.data import DataSettings

HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


@dataclass(frozen=True)
class Split:
    """A data set, its test examples and which node holds what.

    Attributes:
        inputs: Images (n, channels, height, width), float32 in [0, 1], features (n, d), float32,
            or token ids (n, length), int64.
        targets: (n,), int64.
        test_inputs: (t, ...).
        test_targets: (t,).
        nodes: Indices of each node's examples.
        labels: The names of the classes, by the numbers in targets.
        node_names: The names of the nodes.
    """

    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    nodes: tuple[Indices, ...]
    labels: Names
    node_names: Names

    @property
    def classes(self) -> int:
        """Number of labels."""
        return int(torch.cat([self.targets, self.test_targets]).max()) + 1


@lru_cache(maxsize=8)
def load_split(settings: DataSettings) -> Split:
    """Load a data set and spread it over nodes, with wrong labels and a backdoor where wanted.

    Returns:
        All examples and who holds them; the same for the same settings.

    Raises:
        ScenarioError: Files are missing or not in the format, or cannot be spread so.
    """
    source = read(settings)
    train, groups = source.train, source.groups
    if settings.limit is not None and settings.limit < len(train[0]):
        chosen = torch.from_numpy(at_most(settings.limit, _one_group(train[0]), settings.seed))
        train = (train[0][chosen], train[1][chosen])
    nodes = tuple(_spread(train[1], groups, settings))
    named = source.nodes if settings.partition == "natural" else None
    names = named or Names.numbered("node", len(nodes))
    split = Split(*train, *source.test, nodes, source.class_names, names)
    return plant(shift_labels(split, settings), settings)


def _spread(targets: Tensor, groups: Indices | None, settings: DataSettings) -> list[Indices]:
    if settings.partition == "natural":
        assert groups is not None  # as was checked when it was read
        return natural(groups)
    count, nodes = len(targets), settings.nodes
    assert nodes is not None  # the settings have a default
    if count < nodes:
        raise ScenarioError(f"data.nodes: {nodes} nodes but {count} examples; give every node one")
    if settings.partition == "iid":
        return iid(count, nodes, settings.seed)
    if settings.partition == "pathological":
        assert settings.classes_per_node is not None  # the settings have a default
        assign = consecutive if settings.class_order == "consecutive" else pathological
        return assign(targets.numpy(), nodes, settings.classes_per_node, settings.seed)
    return dirichlet(targets.numpy(), nodes, settings.alpha, settings.seed)


def resolve_path(settings: DataSettings, folder: Path) -> DataSettings:
    """Make the path of a scenario's data absolute, unless it is a name on the Hugging Face hub.

    A folder that is there comes before a data set of that name on the hub.

    Args:
        settings: Settings as the scenario gives them.
        folder: Where the scenario lies.

    Returns:
        Settings that mean the same from every working directory.

    Raises:
        ScenarioError: There is nothing at the path, and it is no name on the hub.
    """
    if settings.path is None:
        return settings
    try:
        path = locate(settings.path, folder).absolute()
    except ScenarioError:
        if settings.name != "huggingface" or not HUB_NAME.fullmatch(settings.path.as_posix()):
            raise
        path = settings.path
    return settings.model_copy(update={"path": path})


def locate(path: Path, folder: Path) -> Path:
    """Find a path of a scenario: under ``FEDUNLEARN_DATA``, else beside the scenario.

    Args:
        path: Path as the scenario gives it.
        folder: Where the scenario lies.

    Returns:
        The first place where it exists.

    Raises:
        ScenarioError: The path does not exist in any of these folders.
    """
    roots = [Path(os.environ["FEDUNLEARN_DATA"])] if "FEDUNLEARN_DATA" in os.environ else []
    candidates = [path] if path.is_absolute() else [root / path for root in (*roots, folder)]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise ScenarioError(
        f"data.path: {path} not found (looked at {', '.join(str(c) for c in candidates)}); "
        "correct it, or set FEDUNLEARN_DATA to the folder it is in"
    )


def _one_group(examples: Tensor) -> Indices:
    return np.zeros(len(examples), dtype=np.int64)
