from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedunlearn.data import partition
from fedunlearn.data.partition import ENOUGH_EXAMPLES, Indices, dirichlet, iid
from fedunlearn.data.sources import load_split
from fedunlearn.errors import ScenarioError
from fedunlearn.scenario.data import DataSettings
from tests.laws import laws

pytestmark = pytest.mark.slow

LAW = laws(60)
LABELS: NDArray[np.int64] = np.random.default_rng(0).integers(0, 10, 1000)

PARTITIONS: dict[str, Callable[[int], list[Indices]]] = {
    "iid": lambda seed: iid(1000, 7, seed),
    "dirichlet 0.1": lambda seed: dirichlet(LABELS, 7, 0.1, seed),
    "dirichlet 1": lambda seed: dirichlet(LABELS, 7, 1.0, seed),
    "dirichlet 1000": lambda seed: dirichlet(LABELS, 7, 1000.0, seed),
}


def _require_partition(parts: list[Indices], count: int, nodes: int) -> None:
    assert len(parts) == nodes
    assert all(np.array_equal(part, np.sort(part)) for part in parts)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(count))


def _smallest(parts: list[Indices]) -> int:
    return min(len(part) for part in parts)


def _imbalance(parts: list[Indices]) -> float:
    """Return how far the nodes' shares of labels lie from the whole's, 0 to 1."""
    whole = np.bincount(LABELS, minlength=10) / len(LABELS)
    shares = [np.bincount(LABELS[part], minlength=10) / len(part) for part in parts]
    return float(np.mean([0.5 * np.abs(share - whole).sum() for share in shares]))


@LAW
@given(count=st.integers(1, 500), nodes=st.integers(1, 20), seed=st.integers(0, 2**20))
def test_iid_gives_every_example_to_one_node_in_equal_shares(
    count: int, nodes: int, seed: int
) -> None:
    parts = iid(count, nodes, seed)
    _require_partition(parts, count, nodes)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@LAW
@given(
    seed=st.integers(0, 2**20),
    nodes=st.integers(1, 8),
    classes=st.integers(1, 12),
    alpha=st.sampled_from([0.1, 0.5, 1.0, 100.0]),
)
def test_dirichlet_gives_every_example_to_one_node(
    seed: int, nodes: int, classes: int, alpha: float
) -> None:
    labels = np.random.default_rng(seed).integers(0, classes, 600)
    try:
        parts = dirichlet(labels, nodes, alpha, seed)
    except ScenarioError:
        smallest = 0
    else:
        _require_partition(parts, 600, nodes)
        smallest = _smallest(parts)
        assert smallest >= 1
    # One label from Dir(0.1) seldom reaches 8 nodes; many labels or even shares always do.
    assert smallest >= ENOUGH_EXAMPLES == 10 or (alpha < 0.5 and classes < 4)


@pytest.mark.parametrize("name", PARTITIONS)
def test_the_seed_fixes_the_partition(name: str) -> None:
    first, again, other = (PARTITIONS[name](seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_alpha_sets_how_unlike_the_nodes_are() -> None:
    by_name = {name: _imbalance(make(5)) for name, make in PARTITIONS.items()}
    assert by_name["dirichlet 0.1"] > by_name["dirichlet 1"] > 2.0 * by_name["dirichlet 1000"]
    assert by_name["dirichlet 0.1"] > 0.5
    assert by_name["dirichlet 1000"] < by_name["iid"] + 0.05 < 0.25


def test_examples_of_a_label_are_shuffled_before_they_are_dealt_out() -> None:
    parts = dirichlet(np.zeros(1000, dtype=np.int64), 4, 100.0, 0)
    for part in parts:
        middle = np.count_nonzero(part < 500) / len(part)
        assert 0.35 < middle < 0.65


def test_labels_need_not_be_consecutive() -> None:
    parts = dirichlet(LABELS * 7 - 3, 5, 1.0, 1)
    _require_partition(parts, 1000, 5)


@pytest.mark.parametrize("seed", range(3))
def test_forty_nodes_share_the_digits_though_not_each_gets_ten(seed: int) -> None:
    split = load_split(DataSettings(nodes=40, alpha=0.1, seed=seed))
    _require_partition(list(split.nodes), len(split.targets), 40)
    assert 1 <= _smallest(list(split.nodes)) < ENOUGH_EXAMPLES


@pytest.mark.parametrize(
    "count, nodes, alpha", [(49, 5, 1.0), (1000, 101, 100.0), (60, 6, 0.01), (120, 9, 0.1)]
)
def test_where_no_draw_gives_ten_more_draws_only_help_the_smallest_node(
    monkeypatch: pytest.MonkeyPatch, count: int, nodes: int, alpha: float
) -> None:
    smallest = []
    for attempts in (1, 3, 30, 300):
        monkeypatch.setattr(partition, "ATTEMPTS", attempts)
        try:
            parts = dirichlet(LABELS[:count], nodes, alpha, 0)
        except ScenarioError:
            smallest.append(0)
            continue
        _require_partition(parts, count, nodes)
        smallest.append(_smallest(parts))
    assert smallest == sorted(smallest)
    assert smallest[0] < smallest[-1] < ENOUGH_EXAMPLES


def test_the_first_draw_that_gives_ten_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = dirichlet(LABELS[:150], 9, 0.5, 2)
    attempts, parts = 0, taken[:0]
    while not parts or _smallest(parts) < ENOUGH_EXAMPLES:
        attempts += 1
        monkeypatch.setattr(partition, "ATTEMPTS", attempts)
        parts = dirichlet(LABELS[:150], 9, 0.5, 2)
    assert attempts > 1
    assert all(np.array_equal(a, b) for a, b in zip(parts, taken, strict=True))


@pytest.mark.parametrize("count, nodes, alpha", [(4, 5, 1.0), (20, 20, 1.0), (100, 30, 0.01)])
def test_what_no_draw_can_give_is_refused_with_a_remedy(
    count: int, nodes: int, alpha: float
) -> None:
    with pytest.raises(ScenarioError, match="raise alpha or lower nodes") as refusal:
        dirichlet(LABELS[:count], nodes, alpha, 0)
    assert f"each of {nodes} nodes any of {count} examples" in str(refusal.value)
    assert "\n" not in str(refusal.value)
