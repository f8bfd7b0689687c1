"""What fine-tune and rewind share: federated training that goes on without what leaves."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, Self, TypeVar

from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedunlearn.federation.federation import Federation, TrainedModel, TrainingPlan
from fedunlearn.federation.forget import ForgetSet
from fedunlearn.scenario.settings import Positive, Settings
from fedunlearn.unlearning.method import Claim, Unlearned, UnlearningMethod, Watch

ALONE = 10


class GoingOnSettings(Settings):
    """Settings of every method that goes on training.

    Attributes:
        rounds: How many; left out, as many as the client compute of the scenario's first method
            allows, rounded up (10 where it runs alone).
        learning_rate: A constant one; left out, that of training's schedule.
    """

    rounds: Annotated[int, Field(gt=0)] | None = None
    learning_rate: Positive | None = None


S = TypeVar("S", bound=GoingOnSettings)


class GoingOn(UnlearningMethod[S]):
    """Ordinary training on the retain set, from weights that a method chooses."""

    @abstractmethod
    def begin(self, trained: TrainedModel) -> tuple[Tensor, int]:
        """Return the weights (d,) to start from, and the round of training's schedule."""

    @override
    def unlearn(
        self,
        trained: TrainedModel,
        federation: Federation,
        forget: ForgetSet,
        *,
        watch: Watch | None = None,
    ) -> Unlearned:
        start, first = self.begin(trained)
        plan = TrainingPlan(
            settings=trained.settings,
            rounds=self.settings.rounds or ALONE,
            first_round=first,
            seed=trained.settings.seed,
            learning_rate=self.settings.learning_rate,
            without=forget,
        )

        def on_round(number: int, weights: Tensor) -> None:
            if watch is not None:
                watch(number - first + 1, weights)

        weights = federation.train(start, plan, label=f"{self.name}: rounds", on_round=on_round)
        return Unlearned(weights, "done", Claim.EMPIRICAL, {"rounds": plan.rounds})

    @override
    def at_compute(self, gradient_equivalents: float, local_epochs: int) -> Self:
        if self.settings.rounds is not None:
            return self
        rounds = max(1, math.ceil(gradient_equivalents / local_epochs))
        return type(self)(self.settings.model_copy(update={"rounds": rounds}))
