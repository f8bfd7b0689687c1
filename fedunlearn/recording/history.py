"""What training went through: the weights and every node's update, every few rounds.

The server keeps rounds / every * (nodes + 1) * d floats. It sees each single update, which secure
aggregation would hide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from torch import Tensor

from fedunlearn.errors import NotRecordedError
from fedunlearn.federation.federation import Federation, TrainedModel
from fedunlearn.federation.training import LocalResult


@dataclass(frozen=True, eq=False)
class PastRound:
    """One round of training.

    Attributes:
        number: Counted from 1.
        before: Weights (d,) that the nodes started from.
        updates: What each node added to them, (d,).
    """

    number: int
    before: Tensor
    updates: Mapping[int, Tensor]


@dataclass(frozen=True)
class RoundHistory:
    """Keeps every so many rounds of training, the first among them.

    Attributes:
        every: 1 for all.
    """

    every: int

    def listen(self) -> _Kept:
        """Return a listener that keeps rounds."""
        return _Kept(self.every)

    def record(self, trained: TrainedModel, federation: Federation) -> NoReturn:
        """Refuse: what training went through cannot be told by its end.

        Raises:
            NotRecordedError: Always.
        """
        del trained, federation
        raise NotRecordedError(f"the {self} is kept while training runs: give it to Federation.fit")

    def __str__(self) -> str:
        """Name it in a message."""
        return f"history of every {self.every} rounds"


class _Kept:
    def __init__(self, every: int) -> None:
        self._every = every
        self._rounds: list[PastRound] = []

    def hear(self, number: int, before: Tensor, local: Mapping[int, LocalResult]) -> None:
        """See Listener."""
        if (number - 1) % self._every == 0:
            updates = {node: result.weights - before for node, result in local.items()}
            self._rounds.append(PastRound(number, before, updates))

    def kept(self) -> tuple[PastRound, ...]:
        """See Listener."""
        return tuple(self._rounds)
