"""Data sets by name: those of this package and of others, through entry points."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest
import torch

from fedunlearn.data import scenario_data
from fedunlearn.data.scenario_data import ScenarioData, read
from fedunlearn.data.sources import load_split
from fedunlearn.errors import ScenarioError
from fedunlearn.names import Names
from fedunlearn.scenario import data as settings_module
from fedunlearn.scenario.data import BUILT_IN, DATASETS, DataSettings
from fedunlearn.scenario.loading import parse_scenario
from fedunlearn.testing import DatasetConformance

COUNT = 30


def flowers(settings: DataSettings) -> ScenarioData:
    """A data set of another package."""
    generator = torch.Generator().manual_seed(settings.seed)
    inputs = torch.rand(COUNT, 4, generator=generator)
    targets = torch.arange(COUNT) % 3
    return ScenarioData(
        train=(inputs[:24], targets[:24]),
        test=(inputs[24:], targets[24:]),
        labels=Names("class", ("iris", "rose", "tulip")),
        groups=np.arange(24) % 4,
        nodes=Names("node", ("north", "east", "south", "west")),
    )


def changed(**changes: Any) -> Callable[[DataSettings], Any]:
    def reader(settings: DataSettings) -> Any:
        parts = vars(flowers(settings)) | changes
        return ScenarioData(**parts)

    return reader


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    """Register something as the data set ``flowers`` of another package."""

    def add(reader: object) -> None:
        point = EntryPoint("flowers", f"{__name__}:registered", DATASETS)
        monkeypatch.setitem(globals(), "registered", reader)
        ours = tuple(importlib.metadata.entry_points(group=DATASETS))
        for module in (scenario_data, settings_module):
            monkeypatch.setattr(module, "entry_points", lambda group: (*ours, point))
        load_split.cache_clear()

    return add


def test_every_built_in_data_set_is_registered() -> None:
    assert {one.name for one in importlib.metadata.entry_points(group=DATASETS)} >= set(BUILT_IN)


class TestDigits(DatasetConformance):
    def settings(self) -> DataSettings:
        return DataSettings(name="digits")


@pytest.mark.parametrize("partition", ["iid", "dirichlet", "pathological", "natural"])
def test_a_data_set_of_another_package_conforms(
    partition: str, install: Callable[[object], None]
) -> None:
    install(flowers)

    class Flowers(DatasetConformance):
        def settings(self) -> DataSettings:
            nodes = {} if partition == "natural" else {"nodes": 4}
            return DataSettings.model_validate(
                {"name": "flowers", "partition": partition, "alpha": 5.0, **nodes}
            )

    suite = Flowers()
    for name in dir(suite):
        if name.startswith("test_"):
            getattr(suite, name)()
    split = load_split(suite.settings())
    assert tuple(split.labels) == ("iris", "rose", "tulip")
    if partition == "natural":
        assert tuple(split.node_names) == ("north", "east", "south", "west")


def test_a_data_set_that_is_not_installed_is_named_with_the_nearest() -> None:
    with pytest.raises(ScenarioError) as raised:
        parse_scenario({}, ["data.name=digit"])
    assert str(raised.value).startswith(
        "scenario: data.name: data set 'digit' is unknown (did you mean 'digits'?); installed are "
    )


@pytest.mark.parametrize(
    ("reader", "says"),
    [
        (lambda settings: 7, "returns int; return a ScenarioData"),
        (lambda settings: {}["flowers"], "fails with KeyError: 'flowers'; correct its function"),
        (changed(train=(np.ones((3, 4)), np.arange(3))), "that are not a pair of tensors"),
        (changed(train=(torch.rand(3, 4),)), "has 1 tensors of train examples"),
        (changed(train=(torch.rand(3, 4), torch.rand(3))), "has train inputs of shape (3, 4) and"),
        (changed(train=(torch.rand(3, 4), torch.arange(2))), "int64 targets (n,)"),
        (changed(test=(torch.rand(0, 4), torch.arange(0))), "has no test examples"),
        (changed(train=(torch.rand(3, 4), torch.arange(3) + 1)), "targets outside of 0 to 2"),
        (changed(test=(torch.rand(3, 5), torch.arange(3))), "of another shape or dtype"),
    ],
)
def test_what_a_data_set_returns_is_checked(
    reader: object, says: str, install: Callable[[object], None]
) -> None:
    install(reader)
    with pytest.raises(ScenarioError) as raised:
        read(DataSettings(name="flowers"))
    assert says in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"groups": None}, "names no nodes"),
        ({"groups": np.arange(3)}, "has 3 groups for 24"),
        ({"groups": np.full(24, 2)}, "has groups that are not 0 to 3"),
        ({"groups": np.arange(24) % 5}, "has groups that are not 0 to 3"),
    ],
)
def test_a_natural_partition_needs_groups(
    changes: dict[str, Any], says: str, install: Callable[[object], None]
) -> None:
    install(changed(**changes))
    with pytest.raises(ScenarioError, match=says):
        read(DataSettings(name="flowers", partition="natural"))


def test_a_data_set_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("flowers", "no_such_package:read", DATASETS)
    for module in (scenario_data, settings_module):
        monkeypatch.setattr(module, "entry_points", lambda group: (point,))
    with pytest.raises(ScenarioError, match="cannot be imported: ModuleNotFoundError"):
        read(DataSettings(name="flowers"))
