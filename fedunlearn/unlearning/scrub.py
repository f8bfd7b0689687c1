"""SCRUB, federated: a student moves away from its teacher on the forget set, and only there.

Source: Kurmanji, Triantafillou, Hayes, Triantafillou, "Towards Unbounded Machine Unlearning",
NeurIPS 2023, algorithm 1 and equation 3. The teacher is the trained model. A max-step drives the
student's predictions on the forget set away from the teacher's (KL); a min-step holds them near the
teacher's on the retain set and fits the labels there. The paper alternates epochs of both, then
ends with min-steps alone. Here an epoch is a round: the nodes that hold some of the forget set take
the max-steps, the nodes that stay take the min-steps, and each round's results are averaged. The
method needs the nodes that leave in every max-step, and the nodes that stay.

Where student and teacher are equal, the gradient of the divergence is zero, so the first max-step
changes nothing. This implementation leaves out the paper's SCRUB+R, which rewinds to the checkpoint
whose forget error fits a validation set.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Self

from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.federation.training import OnRound, TrainingPlan
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.risk.local_rules import Distillation
from fedunlearn.settings import NotNegative, Positive, Settings
from fedunlearn.unlearning.continued_training import DEFAULT_ROUNDS, ContinuedTrainingSettings
from fedunlearn.unlearning.method import Claim, Grid, Unlearned, UnlearningMethod


class ScrubSettings(ContinuedTrainingSettings):
    """Settings of scrub.

    Attributes:
        max_rounds: Number of rounds that begin with a max-step.
        max_rate: Step size of the max-steps. If it is left out, that of the min-steps.
        divergence: The weight alpha of the divergence on the retain set.
        loss: The weight gamma of the loss on the retain set.
    """

    max_rounds: Annotated[int, Field(ge=0)] = 3
    max_rate: Positive | None = None
    divergence: NotNegative = 0.5
    loss: NotNegative = 0.5


class Scrub(UnlearningMethod[ScrubSettings]):
    """Max-steps on the forget set, min-steps on the retain set."""

    name: ClassVar[str] = "scrub"
    settings_type: ClassVar[type[Settings]] = ScrubSettings
    grid: ClassVar[Grid] = {"max-rounds": (2, 3), "max-rate": (None, 0.03, 0.1, 0.3)}

    @override
    def unlearn(
        self,
        trained: TrainedModel,
        federation: Federation,
        forget: ForgetSet,
        *,
        on_round: OnRound | None = None,
    ) -> Unlearned:
        settings = self.settings
        rounds = settings.rounds or DEFAULT_ROUNDS
        weights, spent = trained.weights, 0
        label = f"{self.name}: rounds"

        def train(start: Tensor, plan: TrainingPlan) -> Tensor:
            nonlocal spent
            after = federation.train(start, plan, label=label)
            spent += 1
            if on_round is not None:
                on_round(spent, after)
            return after

        for number in range(rounds):
            plan = TrainingPlan(
                trained.settings,
                1,
                trained.settings.rounds + 1 + number,
                trained.settings.seed,
                learning_rate=settings.learning_rate,
                without=forget,
                rule=Distillation(settings.divergence, settings.loss),
                reference=trained.weights,
            )
            if number < settings.max_rounds:
                weights = train(weights, self._away(plan))
            weights = train(weights, plan)
        return Unlearned(weights, "done", Claim.EMPIRICAL, {"rounds": spent})

    def _away(self, plan: TrainingPlan) -> TrainingPlan:
        """Return the max-step that precedes a min-step: one epoch on the forget set."""
        return TrainingPlan(
            plan.settings,
            1,
            plan.first_round,
            plan.seed,
            learning_rate=self.settings.max_rate or plan.learning_rate,
            local_epochs=1,
            without=plan.without,
            part=Part.FORGET,
            rule=Distillation(-1.0, 0.0),
            reference=plan.reference,
        )

    @override
    def at_compute(self, gradient_equivalents: float, local_epochs: int) -> Self:
        if self.settings.rounds is not None:
            return self
        rounds = max(1, math.ceil(gradient_equivalents / (Distillation.cost * local_epochs)))
        return type(self)(self.settings.model_copy(update={"rounds": rounds}))
