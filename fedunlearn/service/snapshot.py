"""What the service knows of keys, commitments and models without asking the store each time.

All of it is logged, so a log that has not grown means that nothing has changed.
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
        size: Of the log.
        principals: By the id of their key, revoked ones too.
        owners: Name of the owner of each node that has one.
        commitments: By node.
        left: Nodes that were removed.
        classes: Names of the classes, in order; none where they are not known yet.
        model: sha256 of the current one; None before there is one.
        lineage: The current model and those it descends from.
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
        """Read it; what changes meanwhile is seen the next time, as the size is read first."""
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
        """Return how many records some nodes have registered; left out, all that are there."""
        chosen = self.commitments if nodes is None else nodes
        return sum(
            self.commitments[node].size
            for node in chosen
            if node in self.commitments and node not in self.left
        )


def log_size(store: RequestStore) -> int:
    """Return how many rows the log has, or 0."""
    head = store.last_head()
    return head.size if head else 0
