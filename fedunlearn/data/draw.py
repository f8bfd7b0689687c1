"""Which examples test, and which of the others train; no group is drawn empty."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

TEST_SHARE = 0.25


def hold_out(groups: Indices, seed: int) -> tuple[Indices, Indices]:
    """Draw a quarter of every group for testing, rounded down.

    Args:
        groups: The group of each example, (n,); one group for all where they do not matter.
        seed: Seed of the draw.

    Returns:
        Indices for training and for testing, in the order drawn.
    """
    order = np.random.default_rng(seed).permutation(len(groups))
    rank = np.empty(len(groups), dtype=np.int64)
    for group in np.unique(groups):
        members = order[groups[order] == group]
        rank[members] = np.arange(len(members)) - int(TEST_SHARE * len(members))
    return order[rank[order] >= 0], order[rank[order] < 0]


def at_most(limit: int, groups: Indices, seed: int) -> Indices:
    """Draw examples, one of every group first.

    Args:
        limit: How many, at least one a group.
        groups: The group of each example, (n,).
        seed: Seed of the draw.

    Returns:
        Their indices, ascending; all where there are no more.
    """
    order = np.random.default_rng(seed).permutation(len(groups))
    _, firsts = np.unique(groups[order], return_index=True)
    order = np.concatenate([order[np.sort(firsts)], np.delete(order, firsts)])
    return np.sort(order[:limit])
