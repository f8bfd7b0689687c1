"""How examples are spread over nodes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedunlearn.errors import ScenarioError

Indices = NDArray[np.int64]

ENOUGH_EXAMPLES = 10
ATTEMPTS = 1000


def iid(count: int, nodes: int, seed: int) -> list[Indices]:
    """Deal examples out at random, in equal shares."""
    order = np.random.default_rng(seed).permutation(count)
    return [np.sort(part) for part in np.array_split(order, nodes)]


def natural(groups: Indices) -> list[Indices]:
    """Give every group (n,) of examples a node of its own, in ascending order of the group."""
    return [np.flatnonzero(groups == group) for group in np.unique(groups)]


def dirichlet(labels: NDArray[np.int64], nodes: int, alpha: float, seed: int) -> list[Indices]:
    """Draw, for every label, the nodes' shares of its examples from a Dirichlet distribution.

    Drawn again until every node has at least 10 examples (Yurochkin et al. 2019, Hsu et al. 2019).
    Where many nodes share few examples no draw may give that; then the one is taken whose smallest
    node is largest.

    Args:
        labels: (n,).
        nodes: How many.
        alpha: Concentration: small means that few nodes hold a label.
        seed: Of the draw.

    Returns:
        The indices of each node, ascending.

    Raises:
        ScenarioError: No draw gave every node an example.
    """
    generator = np.random.default_rng(seed)
    by_label = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    best: list[Indices] = []
    most = 0
    for _ in range(ATTEMPTS):
        parts: list[list[Indices]] = [[] for _ in range(nodes)]
        for indices in by_label:
            shares = generator.dirichlet([alpha] * nodes)
            cuts = (np.cumsum(shares)[:-1] * len(indices)).astype(np.int64)
            for part, piece in zip(
                parts, np.split(generator.permutation(indices), cuts), strict=True
            ):
                part.append(piece)
        smallest = min(sum(len(piece) for piece in part) for part in parts)
        if smallest > most:
            best, most = [np.sort(np.concatenate(part)) for part in parts], smallest
        if most >= ENOUGH_EXAMPLES:
            break
    if not most:
        raise ScenarioError(
            f"data: no Dirichlet({alpha:g}) draw in {ATTEMPTS} left each of {nodes} nodes any of "
            f"{len(labels)} examples; raise alpha or lower nodes"
        )
    return best
