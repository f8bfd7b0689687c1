"""Rewinding: part of the way back towards the initial weights, then training without what leaves.

A simple baseline. What the weights learned of those who leave fades with the rest, and training on
the retain set brings only the rest back. It needs the initial weights and those who stay; whoever
leaves is asked nothing.

Training's schedule starts anew: on digits (data seeds 3 to 6, the largest of ten nodes leaves, half
of the way, 10 rounds) that left a mean forget JS of .029; taken up half-way .043, gone on with from
its end .062; fine-tune .121. Where what leaves had hardly moved the model, it does harm.
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
        share: The part of the way from the initial to the trained weights that is kept.
    """

    share: Share = 0.5


class Rewind(ContinuedTraining[RewindSettings]):
    """Training on the retain set, from part of the way that training went."""

    name: ClassVar[str] = "rewind"
    settings_type: ClassVar[type[Settings]] = RewindSettings
    grid: ClassVar[Grid] = {"share": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)}

    @override
    def starting_point(
        self, trained: TrainedModel, federation: Federation, forget: ForgetSet
    ) -> StartingPoint:
        del federation, forget
        return StartingPoint(trained.interpolated(self.settings.share), 1)
