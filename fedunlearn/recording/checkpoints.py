"""Checkpoints: the global weights after some rounds of training, which only the server stores.

They contain what training learned from everybody, so that they leave with the models of that time:
after a removal only those are held that its step has moved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NoReturn

from torch import Tensor

from fedunlearn.errors import NotRecordedError
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel


@dataclass(frozen=True, eq=False)
class Checkpoints:
    """Checkpoints of a model.

    Attributes:
        weights: The weights (d,) after a number of rounds; after a removal, moved as it moved the
            model.
        expected: The distance from a retrained model, in floors, that earlier removals are expected
            to have left.
    """

    weights: Mapping[int, Tensor]
    expected: float = 0.0


@dataclass(frozen=True)
class TrainingCheckpoints:
    """A request for checkpoints at equal distances.

    Attributes:
        most: The largest number of checkpoints; the server stores as many times d numbers.
    """

    most: int

    def collect(self, rounds: int) -> _Collector:
        """Return a collector for training of so many rounds."""
        return _Collector(math.ceil(rounds / self.most))

    def record(self, trained: TrainedModel, federation: Federation) -> NoReturn:
        """Raise an error, since training is over.

        Raises:
            NotRecordedError: In every case.
        """
        del trained, federation
        raise NotRecordedError(f"{self} are recorded during training: give them to Federation.fit")

    def __str__(self) -> str:
        """Return the name for messages."""
        return "checkpoints of training"


class _Collector:
    def __init__(self, every: int) -> None:
        self._every = every
        self._found: dict[int, Tensor] = {}

    def on_round(self, number: int, weights: Tensor) -> None:
        """See WeightsCollector."""
        if number % self._every == 0:
            self._found[number] = weights.clone()

    def collected(self) -> Checkpoints:
        """See WeightsCollector."""
        return Checkpoints(MappingProxyType(dict(self._found)))
