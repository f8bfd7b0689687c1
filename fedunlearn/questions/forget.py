"""Which examples are to be forgotten, as a node can apply it to its own data.

What leaves is one type with a variant for each way of naming it, which selects, describes and
encodes itself. A new one is a class here, with its message in session.proto.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from fedunlearn.errors import ForgetSetError
from fedunlearn.names import Names, listed
from fedunlearn.rpc.v1 import session_pb2 as pb

Numbers = frozenset[int]
NONE = Numbers()


class Part(enum.StrEnum):
    """The two parts into which a forget set cuts a node's examples."""

    RETAIN = "retain"
    FORGET = "forget"


@dataclass(frozen=True)
class ForgetSet(ABC):
    """A rule that names the examples to be forgotten.

    Attributes:
        kind: What results call it.
        of_whole_nodes: Whether nodes leave as a whole, so that their data need not be looked at.
        nodes: The nodes that leave whole by this rule alone; empty where it names none.
        labels: The labels that leave by this rule alone; empty where it names none.
        after: What was forgotten before: it belongs to neither part any more.
    """

    kind: ClassVar[str]
    of_whole_nodes: ClassVar[bool] = False
    nodes = NONE
    labels = NONE

    after: tuple[ForgetSet, ...] = field(default=(), kw_only=True)

    @staticmethod
    def of_nodes(*nodes: int) -> ForgetSet:
        """Forget all that these nodes hold."""
        return OfNodes(frozenset(nodes))

    @staticmethod
    def of_samples(fraction: float, seed: int, on: Iterable[int] = ()) -> ForgetSet:
        """Forget a share of the examples of every node, or of some, drawn at random."""
        return OfDraw(fraction, seed, frozenset(on))

    @staticmethod
    def of_class(*labels: int, on: Iterable[int] = ()) -> ForgetSet:
        """Forget every example whose target is one of these, everywhere or on some nodes."""
        return OfClasses(frozenset(labels), frozenset(on))

    @staticmethod
    def of_records(records: Mapping[int, Iterable[int]]) -> ForgetSet:
        """Forget some examples of some nodes, by their places in each node's data."""
        places = {node: tuple(sorted(set(some))) for node, some in records.items()}
        return OfRecords(tuple(sorted(places.items())))

    def following(self, earlier: Iterable[ForgetSet]) -> ForgetSet:
        """Return the same rule for a model from which others have been removed already."""
        return replace(self, after=(*self.after, *earlier))

    @property
    def leavers(self) -> Numbers:
        """The nodes that leave whole, now or before."""
        return self.nodes.union(*(earlier.leavers for earlier in self.after))

    @property
    def everywhere(self) -> Numbers:
        """The labels that leave all nodes, now or before."""
        own = NONE if self.named else self.labels
        return own.union(*(earlier.everywhere for earlier in self.after))

    @property
    @abstractmethod
    def named(self) -> Numbers:
        """The nodes that alone may hold some of it; empty where any may."""

    @property
    def by_class(self) -> bool:
        """Whether labels count, for it or for what was forgotten before."""
        return isinstance(self, OfClasses) or any(earlier.by_class for earlier in self.after)

    def select(self, part: Part, node: int, targets: Tensor) -> Tensor:
        """Return the indices (m,), ascending, of a node's examples that belong to a part."""
        forgotten = self.forgotten(node, targets)
        chosen = forgotten if part is Part.FORGET else ~forgotten
        for earlier in self.after:
            chosen = chosen & ~earlier.forgotten_by_now(node, targets)
        return torch.nonzero(chosen)[:, 0]

    def forgotten_by_now(self, node: int, targets: Tensor) -> Tensor:
        """Return which of a node's examples (n,) this rule, or one before it, forgets."""
        forgotten = self.forgotten(node, targets)
        for earlier in self.after:
            forgotten = forgotten | earlier.forgotten_by_now(node, targets)
        return forgotten

    @abstractmethod
    def forgotten(self, node: int, targets: Tensor) -> Tensor:
        """Return which of a node's examples this rule alone forgets.

        Args:
            node: The node's number.
            targets: One entry an example, (n, ...).

        Returns:
            Booleans (n,).
        """

    @abstractmethod
    def takes_group(self, node: int, label: int | None) -> bool | None:
        """Return whether a group of a node's examples leaves by this rule alone.

        Args:
            node: The node's number.
            label: That all of the group have; None where the group is all that the node holds.

        Returns:
            Whether all or none of the group leaves; None where the group does not decide it.
        """

    @abstractmethod
    def described(self, nodes_named: Names | None = None, labels_named: Names | None = None) -> str:
        """Say in a few words what is forgotten.

        Args:
            nodes_named: The names of the nodes; None where their numbers are.
            labels_named: The names of the classes; None where their numbers are.

        Returns:
            As "node 3", "classes cat, dog of node 1", "0.1 of every node's examples".
        """

    def __str__(self) -> str:
        """Say in a few words what is forgotten, by numbers."""
        return self.described()

    def figures(self, labels_named: Names) -> dict[str, Any]:
        """Return what results say of it beside its nodes.

        Args:
            labels_named: The names of the classes.

        Returns:
            Values by their keys in results.
        """
        del labels_named
        return {}

    @abstractmethod
    def write(self, message: pb.ForgetSet) -> None:
        """Write this rule alone to its message.

        Args:
            message: Without any rule yet.

        Raises:
            ValueError: A number is negative or too large.
        """


@dataclass(frozen=True)
class OfNodes(ForgetSet):
    """All that some nodes hold.

    Attributes:
        nodes: The nodes that leave.
    """

    kind = "node"
    of_whole_nodes = True

    nodes: Numbers = NONE

    @property
    @override
    def named(self) -> Numbers:
        return self.nodes

    @override
    def forgotten(self, node: int, targets: Tensor) -> Tensor:
        return torch.full((len(targets),), node in self.nodes)

    @override
    def takes_group(self, node: int, label: int | None) -> bool:
        return node in self.nodes

    @override
    def described(self, nodes_named: Names | None = None, labels_named: Names | None = None) -> str:
        return _nodes(self.nodes, nodes_named)

    @override
    def write(self, message: pb.ForgetSet) -> None:
        message.nodes.SetInParent()
        message.nodes.nodes.extend(sorted(self.nodes))


@dataclass(frozen=True)
class OfDraw(ForgetSet):
    """A share of the examples of nodes, drawn at random.

    Attributes:
        fraction: The share, rounded to whole examples on each node.
        seed: Seed of the draw.
        on: The nodes it is about; empty for all.
    """

    kind = "samples"

    fraction: float = 0.0
    seed: int = 0
    on: Numbers = NONE

    @property
    @override
    def named(self) -> Numbers:
        return self.on

    @override
    def forgotten(self, node: int, targets: Tensor) -> Tensor:
        count = len(targets)
        forgotten = torch.zeros(count, dtype=torch.bool)
        if self.on and node not in self.on:
            return forgotten
        drawn = np.random.default_rng([self.seed, node]).permutation(count)
        forgotten[torch.from_numpy(drawn[: round(self.fraction * count)])] = True
        return forgotten

    @override
    def takes_group(self, node: int, label: int | None) -> None:
        return None

    @override
    def described(self, nodes_named: Names | None = None, labels_named: Names | None = None) -> str:
        of_whom = _nodes(self.on, nodes_named) + "'s" if self.on else "every node's"
        return f"{self.fraction:.3g} of {of_whom} examples"

    @override
    def figures(self, labels_named: Names) -> dict[str, Any]:
        return {"fraction": self.fraction, "seed": self.seed}

    @override
    def write(self, message: pb.ForgetSet) -> None:
        message.samples.fraction = self.fraction
        message.samples.seed = self.seed
        message.samples.on_nodes.extend(sorted(self.on))


@dataclass(frozen=True)
class OfClasses(ForgetSet):
    """Every example whose target is one of some labels.

    Attributes:
        labels: The targets' values.
        on: The nodes it is about; empty for all.
    """

    kind = "class"

    labels: Numbers = NONE
    on: Numbers = NONE

    @property
    @override
    def named(self) -> Numbers:
        return self.on

    @override
    def forgotten(self, node: int, targets: Tensor) -> Tensor:
        if targets.ndim != 1 or targets.is_floating_point():
            raise ForgetSetError(
                "forget: a class needs whole-number targets of shape (n,), "
                f"this task has {targets.dtype} of {targets.ndim} dimensions"
            )
        if self.on and node not in self.on:
            return torch.zeros(len(targets), dtype=torch.bool)
        return torch.isin(targets, targets.new_tensor(sorted(self.labels)))

    @override
    def takes_group(self, node: int, label: int | None) -> bool | None:
        if self.on and node not in self.on:
            return False
        return None if label is None else label in self.labels

    @override
    def described(self, nodes_named: Names | None = None, labels_named: Names | None = None) -> str:
        labels = listed("class", _names(self.labels, labels_named))
        return f"{labels} of {_nodes(self.on, nodes_named)}" if self.on else labels

    @override
    def figures(self, labels_named: Names) -> dict[str, Any]:
        labels = _names(self.labels, labels_named)
        return {"class": labels[0] if len(labels) == 1 else labels}

    @override
    def write(self, message: pb.ForgetSet) -> None:
        message.labels.SetInParent()
        message.labels.labels.extend(sorted(self.labels))
        message.labels.on_nodes.extend(sorted(self.on))


@dataclass(frozen=True)
class OfRecords(ForgetSet):
    """Examples that are named one by one.

    Attributes:
        records: Places of the examples in the data of each node; nodes and places ascend.
    """

    kind = "records"

    records: tuple[tuple[int, tuple[int, ...]], ...] = ()

    @property
    @override
    def named(self) -> Numbers:
        return frozenset(node for node, _ in self.records)

    @override
    def forgotten(self, node: int, targets: Tensor) -> Tensor:
        count, places = len(targets), dict(self.records).get(node, ())
        if places and places[-1] >= count:
            raise ForgetSetError(
                f"forget: node {node} holds {count} examples; an example {places[-1]} is asked for"
            )
        forgotten = torch.zeros(count, dtype=torch.bool)
        forgotten[list(places)] = True
        return forgotten

    @override
    def takes_group(self, node: int, label: int | None) -> None:
        return None

    @override
    def described(self, nodes_named: Names | None = None, labels_named: Names | None = None) -> str:
        return ", ".join(
            f"{_examples(len(places))} of node {_names([node], nodes_named)[0]}"
            for node, places in self.records
        )

    @override
    def write(self, message: pb.ForgetSet) -> None:
        message.records.SetInParent()
        for node, places in self.records:
            message.records.of_nodes.add(node=node, places=places)


def read_forget_set(message: pb.ForgetSet) -> ForgetSet:
    """Read a rule from its message, without what was forgotten before.

    Returns:
        The rule.

    Raises:
        ValueError: The message names no kind.
    """
    match message.WhichOneof("kind"):
        case "nodes":
            return ForgetSet.of_nodes(*message.nodes.nodes)
        case "samples":
            of = message.samples
            return ForgetSet.of_samples(of.fraction, of.seed, on=of.on_nodes)
        case "labels":
            return ForgetSet.of_class(*message.labels.labels, on=message.labels.on_nodes)
        case "records":
            return ForgetSet.of_records({of.node: of.places for of in message.records.of_nodes})
    raise ValueError("forget set of an unknown kind")


def _names(numbers: Iterable[int], names: Names | None) -> list[str]:
    return [str(number) if names is None else names[number] for number in sorted(numbers)]


def _nodes(numbers: Iterable[int], names: Names | None) -> str:
    return listed("node", _names(numbers, names))


def _examples(count: int) -> str:
    return f"{count} example{'' if count == 1 else 's'}"
