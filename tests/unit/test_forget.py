"""Forget sets cut a node's examples in two."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.data.sources import load_split
from fedunlearn.errors import ForgetSetError
from fedunlearn.experiments.forgetting import resolve_forget_set, split_parts
from fedunlearn.federation.forget import ForgetSet, Part
from fedunlearn.federation.transport.codec import decode_forget_set, encode_forget_set
from fedunlearn.rpc.v1 import session_pb2 as pb
from fedunlearn.scenario.settings import DataSettings, ForgetSettings

forget_sets = st.one_of(
    st.sets(st.integers(0, 20), min_size=1).map(lambda nodes: ForgetSet.of_nodes(*nodes)),
    st.builds(ForgetSet.of_samples, st.floats(0.01, 0.99), st.integers(0, 2**63 - 1)),
    st.integers(0, 9).map(ForgetSet.of_class),
)


@given(forget_sets, st.integers(0, 20), st.integers(0, 60), st.integers(0, 100))
def test_parts_are_a_partition_and_repeatable(
    forget: ForgetSet, node: int, count: int, seed: int
) -> None:
    targets = torch.randint(0, 10, (count,), generator=torch.Generator().manual_seed(seed))
    gone, stays = (forget.select(part, node, targets) for part in (Part.FORGET, Part.RETAIN))
    assert sorted([*gone.tolist(), *stays.tolist()]) == list(range(count))
    assert torch.equal(gone, forget.select(Part.FORGET, node, targets))


@given(forget_sets)
def test_forget_sets_survive_the_wire(forget: ForgetSet) -> None:
    data = encode_forget_set(forget).SerializeToString()
    assert decode_forget_set(pb.ForgetSet.FromString(data)) == forget


def test_each_kind_selects_what_it_says() -> None:
    targets = torch.tensor([0, 1, 1, 2, 1])
    assert len(ForgetSet.of_nodes(3).select(Part.FORGET, 3, targets)) == 5
    assert len(ForgetSet.of_nodes(3).select(Part.FORGET, 2, targets)) == 0
    assert ForgetSet.of_class(1).select(Part.FORGET, 0, targets).tolist() == [1, 2, 4]
    assert len(ForgetSet.of_samples(0.4, 0).select(Part.FORGET, 0, targets)) == 2


def test_a_class_needs_labels() -> None:
    with pytest.raises(ForgetSetError, match="whole-number targets"):
        ForgetSet.of_class(1).select(Part.FORGET, 0, torch.rand(5))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (ForgetSettings(nodes=(10,)), "node 10 does not exist; nodes are 0 to 9"),
        (ForgetSettings(nodes=tuple(range(10))), "all nodes would leave"),
        (ForgetSettings(kind="class", class_=11), "no node has examples of class 11"),
        (ForgetSettings(kind="samples", fraction=1e-6), "less than one example on every node"),
    ],
)
def test_impossible_forget_sets_are_refused(settings: ForgetSettings, says: str) -> None:
    with pytest.raises(ForgetSetError, match=says):
        resolve_forget_set(settings, load_split(DataSettings()))


def test_the_largest_node_is_found_and_split_off() -> None:
    split = load_split(DataSettings())
    sizes = [len(indices) for indices in split.nodes]
    forget = resolve_forget_set(ForgetSettings(nodes="largest"), split)
    assert [sizes[node] for node in forget.nodes] == [max(sizes)]
    parts = split_parts(forget, split)
    assert len(parts.forget[0]) == max(sizes)
    assert len(parts.forget[0]) + len(parts.retain[0]) == len(split.targets)


def test_a_removed_class_is_not_tested() -> None:
    split = load_split(DataSettings())
    parts = split_parts(ForgetSet.of_class(4), split)
    assert set(parts.forget[1].tolist()) == {4}
    assert 4 not in parts.retain[1] and 4 not in parts.test[1]
