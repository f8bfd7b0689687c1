"""The gradient over all examples, recorded while all nodes are there."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.questions.forget import ForgetSet


@dataclass(frozen=True)
class RecordedGradient:
    """A sum over the federation, divided: no single node's gradient is kept.

    Attributes:
        examples: n.
        gradient: grad F, shape (d,).
    """

    examples: int
    gradient: Tensor


@dataclass(frozen=True)
class GradientAt:
    """Asks for grad F on the way from w0 to w^: one round.

    Attributes:
        share: Of the way, in [0, 1]; 1 is w^.
    """

    share: float

    def record(self, trained: TrainedModel, federation: Federation) -> RecordedGradient:
        """Ask all nodes."""
        everything = federation.objective(
            ForgetSet.of_nodes(), weight_decay=trained.settings.weight_decay
        )
        with federation.progress.piece("recording", 1):
            gradient = everything.gradient(trained.interpolated(self.share))
        return RecordedGradient(everything.retained, gradient)

    def __str__(self) -> str:
        """Name it in a message."""
        return f"gradient at linearise-at = {self.share:g}"
