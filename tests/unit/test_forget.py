"""Forget sets cut a node's examples in two."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedunlearn.data.sources import Split, load_split
from fedunlearn.errors import ForgetSetError
from fedunlearn.lab.forget_requests import resolve_requests, split_parts
from fedunlearn.names import Names
from fedunlearn.questions.forget import ForgetSet, OfClasses, OfDraw, Part
from fedunlearn.questions.wire import decode_forget_set, encode_forget_set
from fedunlearn.rpc.v1 import session_pb2 as pb
from fedunlearn.scenario.data import DataSettings
from fedunlearn.scenario.sections import ForgetSettings

pytestmark = pytest.mark.slow

numbers = st.sets(st.integers(0, 20), max_size=6)
rules = st.one_of(
    numbers.filter(bool).map(lambda nodes: ForgetSet.of_nodes(*nodes)),
    st.builds(ForgetSet.of_samples, st.floats(0.01, 0.99), st.integers(0, 2**63 - 1), on=numbers),
    st.builds(ForgetSet.of_class, st.integers(0, 9), on=numbers),
)
forget_sets = st.recursive(
    rules,
    lambda earlier: st.builds(ForgetSet.following, rules, st.lists(earlier, max_size=3)),
    max_leaves=6,
)
seeds = st.integers(0, 100)


def targets_of(count: int, seed: int) -> Tensor:
    return torch.randint(0, 10, (count,), generator=torch.Generator().manual_seed(seed))


@given(rules, st.integers(0, 20), st.integers(0, 60), seeds)
def test_parts_are_a_partition_and_repeatable(
    forget: ForgetSet, node: int, count: int, seed: int
) -> None:
    targets = targets_of(count, seed)
    gone, stays = (forget.select(part, node, targets) for part in (Part.FORGET, Part.RETAIN))
    assert sorted([*gone.tolist(), *stays.tolist()]) == list(range(count))
    assert torch.equal(gone, forget.select(Part.FORGET, node, targets))


@given(forget_sets, st.integers(0, 20), st.integers(0, 60), seeds)
def test_what_was_forgotten_before_belongs_to_neither_part(
    forget: ForgetSet, node: int, count: int, seed: int
) -> None:
    targets = targets_of(count, seed)
    gone, stays = (forget.select(part, node, targets) for part in (Part.FORGET, Part.RETAIN))
    before = {
        index
        for rule in forget.after
        for index in torch.nonzero(rule.forgotten_by_now(node, targets))[:, 0].tolist()
    }
    assert sorted([*gone.tolist(), *stays.tolist(), *before]) == list(range(count))
    by_now = torch.nonzero(forget.forgotten_by_now(node, targets))[:, 0]
    assert sorted([*gone.tolist(), *before]) == by_now.tolist()


@given(rules, st.lists(rules, max_size=3), st.integers(0, 20), seeds)
def test_following_takes_from_both_parts_and_gives_to_neither(
    rule: ForgetSet, earlier: list[ForgetSet], node: int, seed: int
) -> None:
    targets = targets_of(40, seed)
    later = rule.following(earlier)
    for part in Part:
        alone = set(rule.select(part, node, targets).tolist())
        for other in earlier:
            alone -= set(other.select(Part.FORGET, node, targets).tolist())
        assert later.select(part, node, targets).tolist() == sorted(alone)
    assert replace(later, after=()) == rule
    one_by_one = rule
    for other in earlier:
        one_by_one = one_by_one.following([other])
    assert one_by_one == later


@given(st.lists(rules, min_size=1, max_size=4), st.integers(0, 20), seeds)
def test_a_sequence_forgets_what_its_rules_forget_each_example_once(
    sequence: list[ForgetSet], node: int, seed: int
) -> None:
    targets = targets_of(40, seed)
    requests = [rule.following(sequence[:number]) for number, rule in enumerate(sequence)]
    forgotten = [i for r in requests for i in r.select(Part.FORGET, node, targets).tolist()]
    together = {i for r in sequence for i in r.select(Part.FORGET, node, targets).tolist()}
    assert sorted(forgotten) == sorted(together)
    stays = requests[-1].select(Part.RETAIN, node, targets).tolist()
    assert sorted([*together, *stays]) == list(range(40))


@given(forget_sets)
def test_forget_sets_survive_the_wire(forget: ForgetSet) -> None:
    data = encode_forget_set(forget).SerializeToString()
    assert decode_forget_set(pb.ForgetSet.FromString(data)) == forget


@given(rules, st.integers(0, 20), seeds)
def test_only_those_who_are_named_may_hold_some(rule: ForgetSet, node: int, seed: int) -> None:
    targets = targets_of(40, seed)
    here = rule.select(Part.FORGET, node, targets)
    if rule.named and node not in rule.named:
        assert len(here) == 0
    elif isinstance(rule, OfDraw | OfClasses):
        everywhere = replace(rule, on=frozenset()).select(Part.FORGET, node, targets)
        assert torch.equal(here, everywhere)


def test_each_kind_selects_what_it_says() -> None:
    targets = torch.tensor([0, 1, 1, 2, 1])
    assert len(ForgetSet.of_nodes(3).select(Part.FORGET, 3, targets)) == 5
    assert len(ForgetSet.of_nodes(3).select(Part.FORGET, 2, targets)) == 0
    assert ForgetSet.of_class(1).select(Part.FORGET, 0, targets).tolist() == [1, 2, 4]
    assert len(ForgetSet.of_samples(0.4, 0).select(Part.FORGET, 0, targets)) == 2


def test_whole_nodes_leave_at_once_or_before() -> None:
    samples, one = ForgetSet.of_samples(0.4, 0, on=[5]), ForgetSet.of_nodes(1)
    assert one.leavers == one.named == {1}
    assert (samples.leavers, samples.named) == (frozenset(), {5})
    later = ForgetSet.of_class(2).following([one, ForgetSet.of_nodes(2).following([samples])])
    assert (later.leavers, later.named) == ({1, 2}, frozenset())
    nested = ForgetSet.of_nodes(0).following([samples.following([ForgetSet.of_nodes(7, 8)])])
    assert (nested.leavers, nested.named) == ({0, 7, 8}, {0})


@pytest.mark.parametrize(
    ("forget", "said"),
    [
        (ForgetSet.of_nodes(3), "node 3"),
        (ForgetSet.of_nodes(12, 3), "nodes 3, 12"),
        (ForgetSet.of_samples(0.25, 0), "0.25 of every node's examples"),
        (ForgetSet.of_samples(0.25, 0, on=[4]), "0.25 of node 4's examples"),
        (ForgetSet.of_class(1), "class 1"),
        (ForgetSet.of_class(1, on=[5, 2]), "class 1 of nodes 2, 5"),
        (ForgetSet.of_class(1).following([ForgetSet.of_nodes(0)]), "class 1"),
    ],
)
def test_it_says_in_a_few_words_what_is_forgotten(forget: ForgetSet, said: str) -> None:
    assert str(forget) == said


def test_a_class_needs_labels() -> None:
    with pytest.raises(ForgetSetError, match="whole-number targets"):
        ForgetSet.of_class(1).select(Part.FORGET, 0, torch.rand(5))


def resolve_one(settings: ForgetSettings, split: Split) -> ForgetSet:
    (forget,) = resolve_requests(settings, split)
    return forget


def split_of(*nodes: Iterable[int]) -> Split:
    """Return data whose nodes hold examples of these labels, in this order."""
    labels = [list(node) for node in nodes]
    targets = torch.tensor([label for node in labels for label in node])
    ends = np.cumsum([len(node) for node in labels])
    return Split(
        inputs=torch.zeros(len(targets), 1),
        targets=targets,
        test_inputs=torch.zeros(10, 1),
        test_targets=torch.arange(10),
        nodes=tuple(np.split(np.arange(len(targets)), ends[:-1])),
        labels=Names.numbered("class", 10),
        node_names=Names.numbered("node", len(labels)),
    )


# Nodes 1 and 3 hold as much as each other, and without node 1 labels 2 and 7 are as common.
UNEVEN = split_of([2, 2, 7], [4, 4, 4, 4, 2], [2, 7], [2, 2, 7, 7, 7])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ForgetSet.of_nodes(1)),
        ({"count": 1}, ForgetSet.of_nodes(1)),
        ({"count": 2}, ForgetSet.of_nodes(1, 3)),
        ({"count": 3}, ForgetSet.of_nodes(0, 1, 3)),
        ({"nodes": (3, 0, 3)}, ForgetSet.of_nodes(0, 3)),
        ({"kind": "samples"}, ForgetSet.of_samples(0.5, 0)),
        ({"kind": "samples", "seed": 3}, ForgetSet.of_samples(0.5, 3)),
        ({"kind": "samples", "nodes": (2, 0)}, ForgetSet.of_samples(0.5, 0, on=[0, 2])),
        (
            {"kind": "samples", "nodes": "largest", "count": 4},
            ForgetSet.of_samples(0.5, 0, on=range(4)),
        ),
        ({"kind": "class", "class": 7}, ForgetSet.of_class(7)),
        ({"kind": "class", "class": 7, "nodes": (0,)}, ForgetSet.of_class(7, on=[0])),
        ({"kind": "class", "class": 7, "nodes": (0, 1)}, ForgetSet.of_class(7, on=[0, 1])),
        ({"kind": "class", "class": "commonest"}, ForgetSet.of_class(2)),
        (
            {"kind": "class", "class": "commonest", "nodes": "largest"},
            ForgetSet.of_class(4, on=[1]),
        ),
        (
            {"kind": "class", "class": "commonest", "nodes": (2,)},
            ForgetSet.of_class(2, on=[2]),
        ),
        (
            {"kind": "class", "class": "commonest", "nodes": (0, 2, 3)},
            ForgetSet.of_class(2, on=[0, 2, 3]),
        ),
    ],
)
def test_settings_name_whom_they_say(settings: dict[str, object], expected: ForgetSet) -> None:
    given = ForgetSettings.model_validate({"fraction": 0.5} | settings)
    assert resolve_one(given, UNEVEN) == expected


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"nodes": (4,)}, "forget.nodes: node 4 does not exist; nodes are 0 to 3"),
        ({"nodes": (3, 2, 1, 0)}, "forget.nodes: all nodes would leave; at least one has to stay"),
        ({"count": 4}, "forget.nodes: all nodes would leave; at least one has to stay"),
        ({"count": 5}, "forget.count: 5 nodes are requested, there are 4"),
        (
            {"kind": "samples", "nodes": (1, 9)},
            "forget.nodes: node 9 does not exist; nodes are 0 to 3",
        ),
        (
            {"kind": "samples", "fraction": 0.09},
            "forget.fraction: 0.09 is less than one example on every node",
        ),
        (
            {"kind": "samples", "fraction": 0.15, "nodes": (2, 0)},
            "forget.fraction: 0.15 is less than one example on each of nodes 0, 2",
        ),
        (
            {"kind": "samples", "fraction": 0.15, "nodes": (2,)},
            "forget.fraction: 0.15 is less than one example on node 2",
        ),
        (
            {"kind": "class", "class": 3},
            "forget.class: no node has examples of class 3; classes are 2, 4, 7",
        ),
        (
            {"kind": "class", "class": 7, "nodes": "largest"},
            "forget.class: no examples of class 7 on node 1; classes there are 2, 4",
        ),
        (
            {"kind": "class", "class": 4, "nodes": (0, 2)},
            "forget.class: no examples of class 4 on nodes 0, 2; classes there are 2, 7",
        ),
        (
            {"nodes": "biggest"},
            "forget.nodes: node 'biggest' does not exist; nodes are 0 to 3, or 'largest' for the "
            "one with most examples",
        ),
        (
            {"kind": "class", "class": "comonest"},
            "forget.class: class 'comonest' does not exist; classes are 0 to 9, or 'commonest' for "
            "the one with most examples",
        ),
        (
            {"kind": "class", "class": -1},
            "forget.class: class -1 does not exist; classes are 0 to 9",
        ),
        (
            {"kind": "class", "class": 7, "nodes": (4,)},
            "forget.nodes: node 4 does not exist; nodes are 0 to 3",
        ),
    ],
)
def test_impossible_forget_sets_are_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ForgetSetError) as refusal:
        resolve_one(ForgetSettings.model_validate(settings), UNEVEN)
    assert str(refusal.value) == says


def test_the_only_class_cannot_leave() -> None:
    with pytest.raises(ForgetSetError, match="1 is the only class there is"):
        resolve_one(ForgetSettings(kind="class", class_=1), split_of([1, 1], [1]))


def test_the_largest_node_is_found_and_split_off() -> None:
    split = load_split(DataSettings())
    sizes = [len(indices) for indices in split.nodes]
    forget = resolve_one(ForgetSettings(nodes="largest"), split)
    assert [sizes[node] for node in forget.nodes] == [max(sizes)]
    parts = split_parts(forget, split)
    assert len(parts.forget[0]) == max(sizes)
    assert len(parts.forget[0]) + len(parts.retain[0]) == len(split.targets)


def test_what_stays_is_known_to_lie_on_its_node() -> None:
    split = load_split(DataSettings())
    for forget in (ForgetSet.of_nodes(2), ForgetSet.of_samples(0.3, 1), ForgetSet.of_class(4)):
        parts = split_parts(forget, split)
        for node, indices in enumerate(split.nodes):
            stays = ~forget.forgotten_by_now(node, split.targets[indices])
            held = parts.retain[0][parts.owners == node]
            assert torch.equal(held, split.inputs[indices][stays])


def test_a_removed_class_is_not_tested() -> None:
    split = load_split(DataSettings())
    parts = split_parts(ForgetSet.of_class(4), split)
    assert set(parts.forget[1].tolist()) == {4}
    assert 4 not in parts.retain[1] and 4 not in parts.test[1]


def test_a_class_of_which_some_stays_is_tested() -> None:
    parts = split_parts(ForgetSet.of_class(2, on=[0]), UNEVEN)
    assert parts.forget[1].tolist() == [2, 2]
    assert parts.test[1].tolist() == list(range(10))
    alone = split_parts(ForgetSet.of_class(4, on=[1]), UNEVEN)
    assert alone.test[1].tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]


def test_a_class_that_was_removed_before_is_not_tested_either() -> None:
    forget = ForgetSet.of_class(7).following([ForgetSet.of_class(4), ForgetSet.of_nodes(3)])
    parts = split_parts(forget, UNEVEN)
    gone = [2, 2, 4, 4, 4, 4, 7, 7, 7, 7, 7]  # with what left before
    assert sorted(parts.forget[1].tolist()) == gone
    assert parts.retain[1].tolist() == [2, 2, 2, 2]
    assert parts.test[1].tolist() == [0, 1, 2, 3, 5, 6, 8, 9]


@given(st.dictionaries(st.integers(0, 5), st.sets(st.integers(0, 29), min_size=1), min_size=1))
def test_records_are_named_by_their_places(records: dict[int, set[int]]) -> None:
    forget = ForgetSet.of_records(records)
    assert forget.named == set(records)
    assert forget.leavers == frozenset()
    assert decode_forget_set(encode_forget_set(forget)) == forget
    for node in range(6):
        gone = forget.select(Part.FORGET, node, targets_of(30, node))
        assert set(gone.tolist()) == records.get(node, set())


def test_a_record_that_a_node_does_not_hold_is_refused() -> None:
    forget = ForgetSet.of_records({3: [2, 7]})
    assert str(forget) == "2 examples of node 3"
    with pytest.raises(ForgetSetError, match="node 3 holds 7 examples; an example 7 is asked for"):
        forget.select(Part.FORGET, 3, targets_of(7, 0))
