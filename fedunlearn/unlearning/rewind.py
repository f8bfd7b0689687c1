"""Rewinding: part of the way back to the initial weights, then training without the forget set.

This is a simple baseline. What the weights learned from the forget set fades with the rest, and
training on the retain set restores only the rest. It needs the initial weights and the nodes that
stay; the nodes that leave need not take part.

The schedule of training starts again. On digits (data seeds 3 to 6, the largest of ten nodes
leaves, half of the way, 10 rounds) this gave a mean forget JS of .029; with the schedule resumed
half-way .043, with the schedule continued from its end .062; fine-tune .121. Where the forget set
had hardly moved the model, rewinding harms it.
"""

from __future__ import annotations

from typing import ClassVar

from typing_extensions import override

from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.settings import Settings, Share
from fedunlearn.unlearning.continued_training import (
    ContinuedTraining,
    ContinuedTrainingSettings,
    StartingPoint,
)
from fedunlearn.unlearning.method import Grid


class RewindSettings(ContinuedTrainingSettings):
    """Settings of rewind.

    Attributes:
        share: The part of the way from the initial to the trained weights that is retained.
    """

    share: Share = 0.5


class Rewind(ContinuedTraining[RewindSettings]):
    """Training on the retain set, from a point on the way from initial to trained weights."""

    name: ClassVar[str] = "rewind"
    settings_type: ClassVar[type[Settings]] = RewindSettings
    grid: ClassVar[Grid] = {"share": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)}

    @override
    def starting_point(
        self, trained: TrainedModel, federation: Federation, forget: ForgetSet
    ) -> StartingPoint:
        del federation, forget
        return StartingPoint(trained.interpolated(self.settings.share), 1)
