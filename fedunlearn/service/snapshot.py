"""A snapshot of keys, commitments and models, so that calls need not read the store each time.

All of these are logged, so nothing has changed as long as the log has not grown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedunlearn.commitments import Commitment
from fedunlearn.requests.principals import Principal
from fedunlearn.requests.store import RequestStore


@dataclass(frozen=True)
class Snapshot:
    """The store's keys, commitments and models when its log had a given size.

    Attributes:
        size: Number of rows of the log.
        principals: Principals by the id of their key, including revoked ones.
        owners: Owners' names by node, for the nodes that have an owner.
        commitments: Commitments by node.
        left: Nodes that were removed.
        classes: Names of the classes, in order; empty if they are not known yet.
        model: sha256 of the current model; None if there is no model yet.
        lineage: sha256 of the current model and of the models that it descends from.
    """

    size: int
    principals: Mapping[str, Principal]
    owners: Mapping[str, str]
    commitments: Mapping[str, Commitment]
    left: frozenset[str]
    classes: tuple[str, ...]
    model: str | None
    lineage: frozenset[str]

    @classmethod
    def of(cls, store: RequestStore) -> Snapshot:
        """Read a snapshot; the size is read first, so that a later change is noticed next time."""
        size = log_size(store)
        principals = {one.key.id: one for one in store.principals()}
        current = store.current()
        parents = {one.sha256: one.parent for one in store.models()}
        lineage: set[str] = set()
        at = current.sha256 if current else None
        while at is not None and at not in lineage:
            lineage.add(at)
            at = parents.get(at)
        return cls(
            size=size,
            principals=principals,
            owners={
                node: one.name
                for one in principals.values()
                if one.role == "owner"
                for node in one.nodes
            },
            commitments=store.commitments(),
            left=store.nodes_left(),
            classes=store.classes(),
            model=current.sha256 if current else None,
            lineage=frozenset(lineage),
        )

    def records(self, nodes: Iterable[str] | None = None) -> int:
        """Return how many records the given nodes have registered; by default, all nodes."""
        chosen = self.commitments if nodes is None else nodes
        return sum(
            self.commitments[node].size
            for node in chosen
            if node in self.commitments and node not in self.left
        )


def log_size(store: RequestStore) -> int:
    """Return the number of rows of the log."""
    head = store.last_head()
    return head.size if head else 0
