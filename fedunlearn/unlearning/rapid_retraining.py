"""Rapid retraining: training from the start, with steps scaled by the diagonal Fisher information.

Source: Liu, Xu, Yuan, Wang, Li, "The Right to be Forgotten in Federated Learning: An Efficient
Realization with Rapid Retraining", INFOCOM 2022, section IV: from the initial weights, on the
retain set, local steps are Newton's with the curvature replaced by the diagonal of the empirical
Fisher information, both averaged over time as momentum. The method needs the initial weights and
the nodes that stay.

This implementation restarts the averages in every round, since nodes store nothing between rounds.
It adds a damping to the diagonal, without which parameters that a batch does not touch take
infinite steps. The step size decays with the schedule of training unless a constant one is given.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from typing_extensions import override

from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.risk.local_rules import FisherDescent, LocalRule
from fedunlearn.settings import Positive, Settings
from fedunlearn.unlearning.continued_training import (
    ContinuedTraining,
    ContinuedTrainingSettings,
    StartingPoint,
)
from fedunlearn.unlearning.method import Grid

Momentum = Annotated[float, Field(ge=0, lt=1, strict=False)]


class RapidRetrainingSettings(ContinuedTrainingSettings):
    """Settings of rapid-retraining.

    Attributes:
        learning_rate: Step size of the scaled steps.
        momentum: Decay of the gradient's average.
        memory: Decay of the diagonal's average.
        damping: Constant that is added to the diagonal.
    """

    learning_rate: Positive | None = 0.02
    momentum: Momentum = 0.9
    memory: Momentum = 0.99
    damping: Positive = 0.03


class RapidRetraining(ContinuedTraining[RapidRetrainingSettings]):
    """Training from the start with preconditioned local steps."""

    name: ClassVar[str] = "rapid-retraining"
    settings_type: ClassVar[type[Settings]] = RapidRetrainingSettings
    grid: ClassVar[Grid] = {"learning-rate": (0.01, 0.02, 0.1, 0.3), "damping": (0.03, 0.3)}

    @override
    def starting_point(
        self, trained: TrainedModel, federation: Federation, forget: ForgetSet
    ) -> StartingPoint:
        del federation, forget
        return StartingPoint(trained.start, 1)

    @property
    @override
    def rule(self) -> LocalRule:
        settings = self.settings
        return FisherDescent(settings.momentum, settings.memory, settings.damping)
