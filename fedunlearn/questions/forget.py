"""Which examples are to be forgotten, as a node can apply it to its own data."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedunlearn.errors import ForgetSetError
from fedunlearn.names import Names, listed


class Part(enum.StrEnum):
    """The two parts into which a forget set cuts a node's examples."""

    RETAIN = "retain"
    FORGET = "forget"


class Kind(enum.StrEnum):
    """What a forget set is made of."""

    NODE = "node"
    SAMPLES = "samples"
    CLASS = "class"
    RECORDS = "records"


@dataclass(frozen=True)
class ForgetSet:
    """A rule that names the examples to be forgotten.

    Attributes:
        kind: Whole nodes, a share of the examples, a class, or examples that are named one by one.
        nodes: For NODE: who leaves.
        fraction: For SAMPLES: the share, rounded to whole examples on each node.
        seed: For SAMPLES: of the draw.
        labels: For CLASS: the targets' values.
        on: For SAMPLES and CLASS: the nodes it is about; empty for all.
        records: For RECORDS: by node, ascending, the places of examples in its data, ascending.
        after: What was forgotten before: it belongs to neither part any more.
    """

    kind: Kind
    nodes: frozenset[int] = frozenset()
    fraction: float = 0.0
    seed: int = 0
    labels: frozenset[int] = frozenset()
    on: frozenset[int] = frozenset()
    records: tuple[tuple[int, tuple[int, ...]], ...] = ()
    after: tuple[ForgetSet, ...] = ()

    @classmethod
    def of_nodes(cls, *nodes: int) -> ForgetSet:
        """Forget all that these nodes hold."""
        return cls(Kind.NODE, nodes=frozenset(nodes))

    @classmethod
    def of_samples(cls, fraction: float, seed: int, on: Iterable[int] = ()) -> ForgetSet:
        """Forget a share of the examples of every node, or of some, drawn at random."""
        return cls(Kind.SAMPLES, fraction=fraction, seed=seed, on=frozenset(on))

    @classmethod
    def of_class(cls, *labels: int, on: Iterable[int] = ()) -> ForgetSet:
        """Forget every example whose target is one of these, everywhere or on some nodes."""
        return cls(Kind.CLASS, labels=frozenset(labels), on=frozenset(on))

    @classmethod
    def of_records(cls, records: Mapping[int, Iterable[int]]) -> ForgetSet:
        """Forget some examples of some nodes, by their places in each node's data."""
        places = {node: tuple(sorted(set(some))) for node, some in records.items()}
        return cls(Kind.RECORDS, records=tuple(sorted(places.items())))

    def following(self, earlier: Iterable[ForgetSet]) -> ForgetSet:
        """Return the same rule for a model from which others have been removed already."""
        return replace(self, after=(*self.after, *earlier))

    @property
    def leavers(self) -> frozenset[int]:
        """The nodes that leave whole, now or before."""
        return self.nodes.union(*(earlier.leavers for earlier in self.after))

    @property
    def everywhere(self) -> frozenset[int]:
        """The labels that leave all nodes, now or before."""
        own = frozenset() if self.on else self.labels
        return own.union(*(earlier.everywhere for earlier in self.after))

    @property
    def named(self) -> frozenset[int]:
        """The nodes that alone may hold some of it; empty where any may."""
        if self.kind is Kind.RECORDS:
            return frozenset(node for node, _ in self.records)
        return self.nodes if self.kind is Kind.NODE else self.on

    @property
    def by_class(self) -> bool:
        """Whether labels count, for it or for what was forgotten before."""
        return self.kind is Kind.CLASS or any(earlier.by_class for earlier in self.after)

    def select(self, part: Part, node: int, targets: Tensor) -> Tensor:
        """Return the indices (m,), ascending, of a node's examples that belong to a part."""
        forgotten = self._forgotten(node, targets)
        chosen = forgotten if part is Part.FORGET else ~forgotten
        for earlier in self.after:
            chosen = chosen & ~earlier.forgotten_by_now(node, targets)
        return torch.nonzero(chosen)[:, 0]

    def forgotten_by_now(self, node: int, targets: Tensor) -> Tensor:
        """Return which of a node's examples (n,) this rule, or one before it, forgets."""
        forgotten = self._forgotten(node, targets)
        for earlier in self.after:
            forgotten = forgotten | earlier.forgotten_by_now(node, targets)
        return forgotten

    def _forgotten(self, node: int, targets: Tensor) -> Tensor:
        count = len(targets)
        if self.kind is Kind.NODE:
            return torch.full((count,), node in self.nodes)
        if self.kind is Kind.RECORDS:
            return self._recorded(node, count)
        if self.kind is Kind.CLASS and (targets.ndim != 1 or targets.is_floating_point()):
            raise ForgetSetError(
                "forget: a class needs whole-number targets of shape (n,), "
                f"this task has {targets.dtype} of {targets.ndim} dimensions"
            )
        if self.on and node not in self.on:
            return torch.zeros(count, dtype=torch.bool)
        if self.kind is Kind.CLASS:
            return torch.isin(targets, targets.new_tensor(sorted(self.labels)))
        drawn = np.random.default_rng([self.seed, node]).permutation(count)
        forgotten = torch.zeros(count, dtype=torch.bool)
        forgotten[torch.from_numpy(drawn[: round(self.fraction * count)])] = True
        return forgotten

    def _recorded(self, node: int, count: int) -> Tensor:
        places = dict(self.records).get(node, ())
        if places and places[-1] >= count:
            raise ForgetSetError(
                f"forget: node {node} holds {count} examples; an example {places[-1]} is asked for"
            )
        forgotten = torch.zeros(count, dtype=torch.bool)
        forgotten[list(places)] = True
        return forgotten

    def __str__(self) -> str:
        """Say in a few words what is forgotten, by numbers."""
        return self.described()

    def described(self, nodes_named: Names | None = None, labels_named: Names | None = None) -> str:
        """Say in a few words what is forgotten.

        Args:
            nodes_named: The names of the nodes; None where their numbers are.
            labels_named: The names of the classes; None where their numbers are.

        Returns:
            As "node 3", "classes cat, dog of node 1", "0.1 of every node's examples".
        """

        def node(number: int) -> str:
            return str(number) if nodes_named is None else nodes_named[number]

        def label(number: int) -> str:
            return str(number) if labels_named is None else labels_named[number]

        def nodes(numbers: frozenset[int]) -> str:
            return listed("node", (node(number) for number in sorted(numbers)))

        if self.kind is Kind.NODE:
            return nodes(self.nodes)
        if self.kind is Kind.RECORDS:
            parts = (
                f"{_examples(len(places))} of node {node(number)}"
                for number, places in self.records
            )
            return ", ".join(parts)
        if self.kind is Kind.SAMPLES:
            of_whom = nodes(self.on) + "'s" if self.on else "every node's"
            return f"{self.fraction:.3g} of {of_whom} examples"
        labels = listed("class", (label(number) for number in sorted(self.labels)))
        return f"{labels} of {nodes(self.on)}" if self.on else labels


def _examples(count: int) -> str:
    return f"{count} example{'' if count == 1 else 's'}"
