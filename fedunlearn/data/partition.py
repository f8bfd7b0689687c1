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
        seed: Seed of the draw.

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


def pathological(
    labels: NDArray[np.int64], nodes: int, classes_per_node: int, seed: int
) -> list[Indices]:
    """Let every node hold a few classes (McMahan et al. 2017, in the form of Li et al. 2022).

    Of K classes node i gets number i mod K; where there are fewer nodes than classes, those that
    no node got follow in the same order; the rest of a node's classes are drawn. The examples of a
    class are dealt out in equal shares over the nodes that have it.

    Args:
        labels: (n,).
        nodes: How many.
        classes_per_node: Classes on each.
        seed: Seed of the draws.

    Returns:
        The indices of each node, ascending.

    Raises:
        ScenarioError: There are too few classes for a node, too few places for the classes, or
            too few examples of a class for the nodes that have it.
    """
    values = np.unique(labels)
    if classes_per_node > len(values):
        raise ScenarioError(
            f"data.classes-per-node: {classes_per_node}, but there are {len(values)} classes; "
            "lower it"
        )
    if nodes * classes_per_node < len(values):
        raise ScenarioError(
            f"data.classes-per-node: {classes_per_node} on {nodes} nodes leaves some of "
            f"{len(values)} classes without a node; raise it or data.nodes"
        )
    generator = np.random.default_rng(seed)
    holders: list[list[int]] = [[] for _ in values]
    for node in range(nodes):
        places = range(node, nodes * classes_per_node, nodes)
        own = [node % len(values), *(place for place in places[1:] if place < len(values))]
        others = np.setdiff1d(np.arange(len(values)), own)
        for number in (*own, *generator.permutation(others)[: classes_per_node - len(own)]):
            holders[number].append(node)
    return _dealt(labels, holders, nodes, generator)


def consecutive(
    labels: NDArray[np.int64], nodes: int, classes_per_node: int, seed: int
) -> list[Indices]:
    """Let nodes in succession hold the same few classes, in the order of the classes.

    The first nodes hold the first ``classes_per_node`` classes, the next nodes the next classes,
    and so on: the layout of the code of Pan et al. 2025 (FedOSD), in which every class of a node
    that leaves has another holder. The examples of a class are dealt out in equal shares.

    Args:
        labels: (n,).
        nodes: Number of nodes.
        classes_per_node: Number of classes of each node.
        seed: Seed of the draw of examples.

    Returns:
        The indices of each node, ascending.

    Raises:
        ScenarioError: The classes are no multiple of those of a node, there are fewer nodes than
            groups of classes, or too few examples of a class for the nodes that have it.
    """
    values = np.unique(labels)
    groups = len(values) // classes_per_node
    if groups * classes_per_node != len(values):
        raise ScenarioError(
            f"data.classes-per-node: {classes_per_node}, but class-order = 'consecutive' needs a "
            f"divisor of the {len(values)} classes; give one, or class-order = 'drawn'"
        )
    if nodes < groups:
        raise ScenarioError(
            f"data.classes-per-node: {classes_per_node} on {nodes} nodes leaves some of "
            f"{len(values)} classes without a node; raise it or data.nodes"
        )
    group_of = [node * groups // nodes for node in range(nodes)]
    holders = [
        [node for node in range(nodes) if group_of[node] == number // classes_per_node]
        for number in range(len(values))
    ]
    return _dealt(labels, holders, nodes, np.random.default_rng(seed))


def _dealt(
    labels: NDArray[np.int64],
    holders: list[list[int]],
    nodes: int,
    generator: np.random.Generator,
) -> list[Indices]:
    """Deal the examples of each class out in equal shares over the nodes that hold it."""
    parts: list[list[Indices]] = [[] for _ in range(nodes)]
    for value, having in zip(np.unique(labels), holders, strict=True):
        examples = generator.permutation(np.flatnonzero(labels == value))
        if len(examples) < len(having):
            raise ScenarioError(
                f"data.classes-per-node: class {value} has {len(examples)} examples for the "
                f"{len(having)} nodes that would hold it; lower it or data.nodes"
            )
        for node, piece in zip(having, np.array_split(examples, len(having)), strict=True):
            parts[node].append(piece)
    return [np.sort(np.concatenate(part)) for part in parts]
