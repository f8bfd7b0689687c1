"""Which examples are to be forgotten, as a node can apply it to its own data."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedunlearn.errors import ForgetSetError


class Part(enum.StrEnum):
    """The two parts into which a forget set cuts a node's examples."""

    RETAIN = "retain"
    FORGET = "forget"


class Kind(enum.StrEnum):
    """What a forget set is made of."""

    NODE = "node"
    SAMPLES = "samples"
    CLASS = "class"


@dataclass(frozen=True)
class ForgetSet:
    """A rule that names the examples to be forgotten.

    Attributes:
        kind: Whole nodes, a share of every node's examples, or a class.
        nodes: For NODE: who leaves.
        fraction: For SAMPLES: the share, rounded to whole examples on each node.
        seed: For SAMPLES: of the draw.
        label: For CLASS: the target's value.
    """

    kind: Kind
    nodes: frozenset[int] = frozenset()
    fraction: float = 0.0
    seed: int = 0
    label: int = 0

    @classmethod
    def of_nodes(cls, *nodes: int) -> ForgetSet:
        """Forget all that these nodes hold."""
        return cls(Kind.NODE, nodes=frozenset(nodes))

    @classmethod
    def of_samples(cls, fraction: float, seed: int) -> ForgetSet:
        """Forget a share of every node's examples, drawn at random."""
        return cls(Kind.SAMPLES, fraction=fraction, seed=seed)

    @classmethod
    def of_class(cls, label: int) -> ForgetSet:
        """Forget every example whose target is this label."""
        return cls(Kind.CLASS, label=label)

    def select(self, part: Part, node: int, targets: Tensor) -> Tensor:
        """Return the indices (m,), ascending, of a node's examples that belong to a part."""
        forgotten = self._forgotten(node, targets)
        return torch.nonzero(forgotten if part is Part.FORGET else ~forgotten)[:, 0]

    def _forgotten(self, node: int, targets: Tensor) -> Tensor:
        count = len(targets)
        match self.kind:
            case Kind.NODE:
                return torch.full((count,), node in self.nodes)
            case Kind.SAMPLES:
                drawn = np.random.default_rng([self.seed, node]).permutation(count)
                forgotten = torch.zeros(count, dtype=torch.bool)
                forgotten[torch.from_numpy(drawn[: round(self.fraction * count)])] = True
                return forgotten
            case Kind.CLASS:
                if targets.ndim != 1 or targets.is_floating_point():
                    raise ForgetSetError(
                        "forget: a class needs whole-number targets of shape (n,), "
                        f"this task has {targets.dtype} of {targets.ndim} dimensions"
                    )
                return targets == self.label

    def __str__(self) -> str:
        """Say in a few words what is forgotten."""
        match self.kind:
            case Kind.NODE:
                numbers = ", ".join(str(node) for node in sorted(self.nodes))
                return f"node {numbers}" if len(self.nodes) == 1 else f"nodes {numbers}"
            case Kind.SAMPLES:
                return f"{self.fraction:.3g} of every node's examples"
            case Kind.CLASS:
                return f"class {self.label}"
