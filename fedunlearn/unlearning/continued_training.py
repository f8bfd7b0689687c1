"""The base of methods that end in ordinary federated training without the forget set."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.federation.training import OnRound, TrainingPlan
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.risk.local_rules import LocalRule
from fedunlearn.risk.local_training import ORDINARY
from fedunlearn.settings import Positive, Settings
from fedunlearn.unlearning.method import Claim, Unlearned, UnlearningMethod

DEFAULT_ROUNDS = 10


class ContinuedTrainingSettings(Settings):
    """Settings of every method that continues training.

    Attributes:
        rounds: Number of rounds. If it is left out, as many as the client compute of the scenario's
            first method allows, rounded up (10 where the method runs alone).
        learning_rate: A constant step size. If it is left out, the schedule of training applies.
    """

    rounds: Annotated[int, Field(gt=0)] | None = None
    learning_rate: Positive | None = None


@dataclass(frozen=True, eq=False)
class StartingPoint:
    """The point from which training is continued.

    Attributes:
        weights: Weights at that point, shape (d,).
        first_round: Round of training's schedule at which training resumes.
        rounds: Number of rounds spent before that point.
        details: Values that are added to the details of the result.
    """

    weights: Tensor
    first_round: int
    rounds: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)


S = TypeVar("S", bound=ContinuedTrainingSettings)


class ContinuedTraining(UnlearningMethod[S]):
    """Training on the retain set, from weights that a method chooses."""

    @abstractmethod
    def starting_point(
        self, trained: TrainedModel, federation: Federation, forget: ForgetSet
    ) -> StartingPoint:
        """Do what precedes the continued training, and return the point where it starts."""

    @property
    def rule(self) -> LocalRule:
        """The rule by which nodes train on their examples."""
        return ORDINARY

    def spent_before(self, local_epochs: int) -> float:
        """Return the client compute of ``starting_point``, about, in gradient equivalents."""
        del local_epochs
        return 0.0

    @override
    def unlearn(
        self,
        trained: TrainedModel,
        federation: Federation,
        forget: ForgetSet,
        *,
        on_round: OnRound | None = None,
    ) -> Unlearned:
        start = self.starting_point(trained, federation, forget)
        if start.rounds and on_round is not None:
            on_round(start.rounds, start.weights)
        plan = TrainingPlan(
            settings=trained.settings,
            rounds=self.settings.rounds or DEFAULT_ROUNDS,
            first_round=start.first_round,
            seed=trained.settings.seed,
            learning_rate=self.settings.learning_rate,
            without=forget,
            rule=self.rule,
        )

        def after(number: int, weights: Tensor) -> None:
            if on_round is not None:
                on_round(start.rounds + number - start.first_round + 1, weights)

        weights = federation.train(
            start.weights, plan, label=f"{self.name}: rounds", on_round=after
        )
        rounds = start.rounds + plan.rounds
        return Unlearned(weights, "done", Claim.EMPIRICAL, {"rounds": rounds, **start.details})

    @override
    def at_compute(self, gradient_equivalents: float, local_epochs: int) -> Self:
        if self.settings.rounds is not None:
            return self
        left = gradient_equivalents - self.spent_before(local_epochs)
        rounds = max(1, math.ceil(left / (self.rule.cost * local_epochs)))
        return type(self)(self.settings.model_copy(update={"rounds": rounds}))
