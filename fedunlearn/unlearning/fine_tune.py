"""Fine-tuning: federated training continues without the forget set.

This is the oldest baseline (e.g. Golatkar, Achille, Soatto 2020, "Fine-tuning"). It forgets only as
far as later training overwrites the weights.
"""

from __future__ import annotations

from typing import ClassVar

from typing_extensions import override

from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.settings import Settings
from fedunlearn.unlearning.continued_training import (
    ContinuedTraining,
    ContinuedTrainingSettings,
    StartingPoint,
)
from fedunlearn.unlearning.method import Grid


class FineTuneSettings(ContinuedTrainingSettings):
    """Settings of fine-tune."""


class FineTune(ContinuedTraining[FineTuneSettings]):
    """Training on the retain set, from the trained weights."""

    name: ClassVar[str] = "fine-tune"
    settings_type: ClassVar[type[Settings]] = FineTuneSettings
    grid: ClassVar[Grid] = {"learning-rate": (None, 0.02, 0.05, 0.1, 0.2, 0.3, 0.6, 0.9)}

    @override
    def starting_point(
        self, trained: TrainedModel, federation: Federation, forget: ForgetSet
    ) -> StartingPoint:
        del federation, forget
        return StartingPoint(trained.weights, trained.settings.rounds + 1)
