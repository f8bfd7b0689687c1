"""Projected gradient ascent on the forget set, then continued training without it.

Source: Halimi, Kadhe, Rawat, Baracaldo, "Federated Unlearning: How to Efficiently Erase a Client in
FL?", 2022, algorithm 1: the client that leaves maximises its loss inside a ball around a reference,
the average of the other clients' models; a few rounds of ordinary training follow. The method needs
the nodes that leave, once, and the nodes that stay.

The paper supposes that a whole client leaves and that every client has stored its last local model.
This implementation differs:

- The reference is one round of training on the retain set from the trained model, which is the same
  average one round later. It exists for samples and classes too and needs no stored models. Every
  node that holds some of the forget set ascends on its own share, and the results are averaged.
- The radius is a share of the distance between the reference and the initial weights, which replace
  the paper's average over ten random models.
- The ascent stops at the loss of a uniform guess instead of at an accuracy on a validation set.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from typing_extensions import override

from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.federation.training import TrainingPlan
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.risk.local_rules import Ascent
from fedunlearn.settings import Positive, Settings
from fedunlearn.unlearning.continued_training import (
    ContinuedTraining,
    ContinuedTrainingSettings,
    StartingPoint,
)
from fedunlearn.unlearning.method import Grid
from fedunlearn.vectors import norm


class GradientAscentSettings(ContinuedTrainingSettings):
    """Settings of gradient-ascent.

    Attributes:
        ascent_epochs: Largest number of passes over the forget set.
        ascent_rate: Step size of the ascent.
        radius: Radius of the ball, as a share of the distance from the reference to the initial
            weights.
        clip: Largest norm of a gradient.
    """

    ascent_epochs: Annotated[int, Field(gt=0)] = 5
    ascent_rate: Positive = 0.01
    radius: Positive = 1 / 3
    clip: Positive = 5.0


class GradientAscent(ContinuedTraining[GradientAscentSettings]):
    """Gradient ascent on the forget set, then training on the retain set."""

    name: ClassVar[str] = "gradient-ascent"
    settings_type: ClassVar[type[Settings]] = GradientAscentSettings
    grid: ClassVar[Grid] = {"ascent-rate": (0.01, 0.03, 0.1, 0.3), "radius": (0.15, 1 / 3)}

    @override
    def starting_point(
        self, trained: TrainedModel, federation: Federation, forget: ForgetSet
    ) -> StartingPoint:
        settings = trained.settings
        after = settings.rounds + 1
        staying = TrainingPlan(settings, 1, after, settings.seed, without=forget)
        climbing = f"{self.name}: reference and ascent"
        with federation.progress.piece(climbing, 2):
            reference = federation.train(trained.weights, staying, label=climbing)
            radius = self.settings.radius * norm(reference - trained.start)
            leaving = TrainingPlan(
                settings,
                1,
                after,
                settings.seed,
                learning_rate=self.settings.ascent_rate,
                local_epochs=self.settings.ascent_epochs,
                without=forget,
                part=Part.FORGET,
                rule=Ascent(radius, self.settings.clip),
                reference=reference,
            )
            weights = federation.train(reference, leaving, label=climbing)
        return StartingPoint(
            weights, after, 2, {"radius": radius, "climbed": norm(weights - reference)}
        )

    @override
    def spent_before(self, local_epochs: int) -> float:
        return float(local_epochs)
