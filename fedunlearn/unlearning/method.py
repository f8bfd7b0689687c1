"""What every unlearning method is and gives."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor

from fedunlearn.federation.federation import Federation, Recordable, TrainedModel
from fedunlearn.federation.forget import ForgetSet
from fedunlearn.scenario.settings import Settings

S = TypeVar("S", bound=Settings)
Watch = Callable[[int, Tensor], None]
Grid = Mapping[str, Sequence[Any]]


class Claim(enum.StrEnum):
    """What may be said of a model after a removal."""

    EXACT_RETRAIN = "EXACT_RETRAIN"
    EMPIRICAL = "EMPIRICAL"


@dataclass(frozen=True)
class Unlearned:
    """A model after a removal.

    Attributes:
        weights: w+, shape (d,).
        status: How it went, with the remedy where there is one.
        claim: What may be said of it.
        details: What the method knows of its own work, as JSON-able values.
        trained: What the next removal starts from, where the method keeps more than weights.
    """

    weights: Tensor
    status: str
    claim: Claim
    details: Mapping[str, Any] = field(default_factory=dict)
    trained: TrainedModel | None = None


class UnlearningMethod(ABC, Generic[S]):
    """Removes a forget set from a trained model, with the federation's help.

    A subclass names itself and its settings, and is registered as an entry point of the group
    ``fedunlearn.methods``.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[Settings]]
    # Settings worth a trial, by their keys in a scenario, for ``fedunlearn tune``.
    grid: ClassVar[Grid] = MappingProxyType({})

    def __init__(self, settings: S | None = None) -> None:
        """Take settings; without any, the defaults."""
        self.settings: S = settings or self.settings_type()  # type: ignore[assignment]

    def to_record(self) -> tuple[Recordable, ...]:
        """Return what must have been recorded when training ended (``Federation.record``)."""
        return ()

    @abstractmethod
    def unlearn(
        self,
        trained: TrainedModel,
        federation: Federation,
        forget: ForgetSet,
        *,
        watch: Watch | None = None,
    ) -> Unlearned:
        """Remove a forget set.

        Args:
            trained: The model before.
            federation: All nodes, those that leave included.
            forget: What leaves.
            watch: Told, in order, how many rounds are spent and what weights one would have had
                then; last of the result.

        Returns:
            The model after, and how it came about.
        """

    def at_compute(self, gradient_equivalents: float, local_epochs: int) -> UnlearningMethod[S]:
        """Return this method sized to spend about so much client compute; itself if it cannot."""
        del gradient_equivalents, local_epochs
        return self
