"""Nodes that hold a few classes each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.data.partition import consecutive, pathological
from fedunlearn.data.sources import load_split
from fedunlearn.errors import ScenarioError
from fedunlearn.scenario.data import DataSettings
from fedunlearn.scenario.loading import parse_scenario
from tests.laws import laws

LAW = laws(100)


@LAW
@given(
    classes=st.integers(1, 12),
    nodes=st.integers(1, 25),
    each=st.integers(1, 12),
    seed=st.integers(0, 2**20),
)
def test_every_node_holds_that_many_classes_and_every_example_has_a_node(
    classes: int, nodes: int, each: int, seed: int
) -> None:
    labels = 7 * np.random.default_rng(seed).integers(0, classes, 900) - 3  # not consecutive
    classes = len(np.unique(labels))
    if each > classes or nodes * each < classes:
        with pytest.raises(ScenarioError, match=r"^data\.classes-per-node: [^\n]*$"):
            pathological(labels, nodes, each, seed)
        return
    parts = pathological(labels, nodes, each, seed)
    assert len(parts) == nodes
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(900))
    assert all(np.array_equal(part, np.sort(part)) for part in parts)
    held = [set(labels[part].tolist()) for part in parts]
    assert {len(own) for own in held} == {each}
    assert set.union(*held) == set(labels.tolist())
    for label in np.unique(labels):
        shares = [np.count_nonzero(labels[part] == label) for part in parts]
        dealt = [share for share in shares if share]
        assert max(dealt) - min(dealt) <= 1


@LAW
@given(
    groups=st.integers(1, 6),
    nodes=st.integers(1, 25),
    each=st.integers(1, 4),
    seed=st.integers(0, 2**20),
)
def test_consecutive_nodes_hold_the_same_consecutive_classes(
    groups: int, nodes: int, each: int, seed: int
) -> None:
    labels = 3 * np.random.default_rng(seed).permutation(np.arange(2000) % (groups * each)) + 1
    if nodes < groups:
        with pytest.raises(ScenarioError, match=r"^data\.classes-per-node: [^\n]*$"):
            consecutive(labels, nodes, each, seed)
        return
    parts = consecutive(labels, nodes, each, seed)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(2000))
    assert all(np.array_equal(part, np.sort(part)) for part in parts)
    held = [tuple(np.unique(labels[part]).tolist()) for part in parts]
    assert held == sorted(held)
    values = np.unique(labels).tolist()
    assert set(held) == {tuple(values[each * g : each * (g + 1)]) for g in range(groups)}
    times = [held.count(own) for own in set(held)]
    assert max(times) - min(times) <= 1


def test_ten_nodes_of_two_classes_are_five_pairs() -> None:
    settings = parse_scenario({"data": {"partition": "pathological", "class-order": "consecutive"}})
    split = load_split(settings.data)
    held = [set(split.targets[part].tolist()) for part in split.nodes]
    assert held == [{2 * (node // 2), 2 * (node // 2) + 1} for node in range(10)]
    with pytest.raises(ScenarioError, match="needs a divisor of the 10 classes"):
        load_split(settings.data.model_copy(update={"classes_per_node": 3}))
    with pytest.raises(ScenarioError, match=r"class-order: is for partition = 'pathological'"):
        parse_scenario({"data": {"class-order": "drawn"}})


def test_node_i_holds_class_i_and_the_seed_draws_the_others() -> None:
    labels = np.repeat(np.arange(5), 60)
    first, again, other = (pathological(labels, 8, 2, seed) for seed in (3, 3, 4))
    for node in range(8):
        assert node % 5 in labels[first[node]] and node % 5 in labels[other[node]]
        assert np.array_equal(first[node], again[node])
    assert [set(labels[part]) for part in first] != [set(labels[part]) for part in other]
    assert len({frozenset(labels[part]) for part in first}) > 5  # others do not go in step


def test_examples_of_a_class_are_shuffled_before_they_are_dealt_out() -> None:
    for part in pathological(np.zeros(1000, dtype=np.int64), 4, 1, 0):
        assert 0.35 < np.count_nonzero(part < 500) / len(part) < 0.65


def test_digits_are_dealt_two_classes_a_node_where_nothing_is_said() -> None:
    given = parse_scenario({"data": {"partition": "pathological"}}).data
    assert given.classes_per_node == 2
    split = load_split(given)
    assert [len(np.unique(split.targets[node])) for node in split.nodes] == [2] * 10
    assert len({given, given.model_copy(update={"seed": 1})}) == 2  # hashable
    three = DataSettings(partition="pathological", classes_per_node=3)
    assert [len(np.unique(split.targets[node])) for node in load_split(three).nodes] == [3] * 10


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"classes-per-node": 11}, "data.classes-per-node: 11, but there are 10 classes; lower it"),
        ({"nodes": 4}, "2 on 4 nodes leaves some of 10 classes without a node; raise it"),
        ({"nodes": 60, "limit": 60}, "nodes that would hold it; lower it or data.nodes"),
        ({"nodes": 60, "limit": 50}, "data.nodes: 60 nodes but 50 examples"),
        ({"classes-per-node": 0}, "data.classes-per-node: must be greater than or equal to 1"),
        (
            {"classes-per-node": 2, "partition": "iid"},
            "data.classes-per-node: is for partition = 'pathological', not 'iid'; leave it out",
        ),
    ],
)
def test_what_cannot_be_dealt_is_one_line(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        load_split(parse_scenario({"data": {"partition": "pathological"} | keys}).data)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
