"""The gradient over all examples, recorded while all nodes are connected."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.questions.forget import ForgetSet, Part


@dataclass(frozen=True)
class RecordedGradient:
    """A mean gradient over the federation; no single node's gradient is stored.

    Attributes:
        examples: The number n of examples.
        mass: Their mass q (questions/step_weights.py).
        gradient: The gradient grad F, shape (d,).
    """

    examples: int
    mass: int
    gradient: Tensor


@dataclass(frozen=True)
class GradientAt:
    """A request to record grad F at a point between w0 and w^: one round.

    Attributes:
        share: The share of the way from w0 to w^, in [0, 1]; 1 is w^.
        by_steps: Whether nodes are weighted by their steps, as in federated averaging.
    """

    share: float
    by_steps: bool = True

    def record(self, trained: TrainedModel, federation: Federation) -> RecordedGradient:
        """Compute the gradient over all nodes."""
        everything = federation.objective(
            ForgetSet.of_nodes(),
            weight_decay=trained.settings.weight_decay,
            step_batch=trained.settings.step_batch if self.by_steps else None,
        )
        with federation.progress.piece("recording", 1):
            gradient = everything.gradient(trained.interpolated(self.share))
        return RecordedGradient(everything.retained, everything.mass(Part.RETAIN), gradient)

    def __str__(self) -> str:
        """Return the name for messages."""
        return f"gradient at linearise-at = {self.share:g}"
