"""Requests one after the other: which they are, and what has left by each."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fedunlearn.data.sources import load_split
from fedunlearn.errors import ForgetSetError, ScenarioError
from fedunlearn.lab.forget_requests import resolve_requests, split_parts
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.scenario.data import DataSettings
from fedunlearn.scenario.loading import parse_scenario
from fedunlearn.scenario.sections import ForgetSettings
from tests.unit.test_forget import UNEVEN, split_of


def requests(**settings: Any) -> tuple[ForgetSet, ...]:
    return resolve_requests(ForgetSettings(sequential=True, **settings), UNEVEN)


def test_nodes_leave_in_the_order_given() -> None:
    found = requests(nodes=(3, 0, 2))
    assert [sorted(one.nodes) for one in found] == [[3], [0], [2]]
    assert [one.after for one in found] == [
        (),
        (ForgetSet.of_nodes(3),),
        (ForgetSet.of_nodes(3), ForgetSet.of_nodes(0)),
    ]
    assert found[-1].leavers == {0, 2, 3}


def test_of_the_largest_the_largest_leaves_first() -> None:
    assert [sorted(one.nodes) for one in requests(count=3)] == [[1], [3], [0]]


def test_classes_leave_in_the_order_given() -> None:
    found = requests(kind="class", class_=(7, 2))
    assert [sorted(one.labels) for one in found] == [[7], [2]]


def test_several_classes_leave_together_where_nobody_says_in_sequence() -> None:
    (one,) = resolve_requests(ForgetSettings(kind="class", class_=(7, 2)), UNEVEN)
    assert one == ForgetSet.of_class(2, 7)
    assert set(split_parts(one, UNEVEN).forget[1].tolist()) == {2, 7}
    assert str(one) == "classes 2, 7"


def test_draws_of_samples_have_seeds_of_their_own() -> None:
    found = requests(kind="samples", fraction=0.5, seed=4, count=3)
    assert [one.seed for one in found] == [4, 5, 6]


@pytest.mark.parametrize(
    "settings",
    [
        {"nodes": (4, 1, 7)},
        {"nodes": "largest", "count": 4},
        {"kind": "class", "class_": (3, 5, 8)},
        {"kind": "samples", "fraction": 0.1, "count": 5},
    ],
)
def test_what_has_left_only_grows_and_nothing_is_lost(settings: dict[str, Any]) -> None:
    split = load_split(DataSettings(alpha=1.0, nodes=10))
    found = resolve_requests(ForgetSettings(sequential=True, **settings), split)
    before: set[bytes] = set()
    for one in found:
        parts = split_parts(one, split)
        gone = {row.numpy().tobytes() for row in parts.forget[0]}
        assert before <= gone
        assert len(parts.forget[0]) + len(parts.retain[0]) == len(split.targets)
        before = gone
    assert len(parts.forget[0]) > len(split_parts(found[0], split).forget[0])


@pytest.mark.parametrize(
    ("forget", "says"),
    [
        ({"sequential": True}, "there is one request only; give several by nodes = [...], or"),
        ({"sequential": True, "nodes": [3]}, "there is one request only"),
        ({"sequential": True, "kind": "class", "class": 3}, "give several by class = [...]"),
        ({"sequential": True, "kind": "samples"}, "give several by count, the number of draws"),
        (
            {"sequential": True, "kind": "samples", "nodes": "largest", "count": 2},
            "count: could mean nodes or draws here",
        ),
    ],
)
def test_a_sequence_needs_several_requests(forget: dict[str, Any], says: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse_scenario({"forget": forget})
    assert says in str(caught.value)


def test_all_classes_cannot_leave() -> None:
    split = split_of([2, 7], [7, 4])
    with pytest.raises(ForgetSetError, match="these are all classes"):
        resolve_requests(ForgetSettings(kind="class", class_=(2, 4, 7)), split)


def test_several_labels_select_what_each_selects() -> None:
    targets = torch.tensor([0, 1, 2, 1, 3])
    both = ForgetSet.of_class(1, 3).forgotten_by_now(0, targets)
    each = [ForgetSet.of_class(label).forgotten_by_now(0, targets) for label in (1, 3)]
    assert torch.equal(both, each[0] | each[1])
