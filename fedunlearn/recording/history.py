"""The history of training: the weights and every node's update, every few rounds.

The server stores rounds / every * (nodes + 1) * d floats. It sees each single update, which secure
aggregation would hide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from torch import Tensor

from fedunlearn.errors import NotRecordedError
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.federation.training import LocalResult


@dataclass(frozen=True, eq=False)
class PastRound:
    """One stored round of training.

    Attributes:
        number: Number of the round, counted from 1.
        before: Weights (d,) from which the nodes started.
        updates: The update (d,) of each node.
    """

    number: int
    before: Tensor
    updates: Mapping[int, Tensor]


@dataclass(frozen=True)
class RoundHistory:
    """A request to store every n-th round of training, beginning with the first.

    Attributes:
        every: The interval in rounds; 1 for all rounds.
    """

    every: int

    def observer(self) -> _HistoryObserver:
        """Return an observer that collects rounds."""
        return _HistoryObserver(self.every)

    def record(self, trained: TrainedModel, federation: Federation) -> NoReturn:
        """Raise an error, since the history of training cannot be recorded at its end.

        Raises:
            NotRecordedError: In every case.
        """
        del trained, federation
        raise NotRecordedError(f"the {self} is recorded during training: give it to Federation.fit")

    def __str__(self) -> str:
        """Return the name for messages."""
        return f"history of every {self.every} rounds"


class _HistoryObserver:
    def __init__(self, every: int) -> None:
        self._every = every
        self._rounds: list[PastRound] = []

    def on_round(self, number: int, before: Tensor, local: Mapping[int, LocalResult]) -> None:
        """See RoundObserver."""
        if (number - 1) % self._every == 0:
            updates = {node: result.weights - before for node, result in local.items()}
            self._rounds.append(PastRound(number, before, updates))

    def collected(self) -> tuple[PastRound, ...]:
        """See RoundObserver."""
        return tuple(self._rounds)
