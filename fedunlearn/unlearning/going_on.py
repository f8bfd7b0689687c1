"""Federated training that goes on without what leaves, for the methods that do little else."""

from __future__ import annotations

import math
from typing import Annotated, TypeVar

from pydantic import Field
from torch import Tensor

from fedunlearn.federation.federation import Federation, TrainedModel, TrainingPlan
from fedunlearn.federation.forget import ForgetSet
from fedunlearn.scenario.settings import Positive, Settings
from fedunlearn.unlearning.method import Claim, Unlearned, Watch

ALONE = 10


class GoingOnSettings(Settings):
    """Settings of every method that goes on training.

    Attributes:
        rounds: How many; left out, as many as the client compute of the scenario's first method
            allows, rounded up (10 where it runs alone).
        learning_rate: A constant one; left out, training's schedule goes on.
    """

    rounds: Annotated[int, Field(gt=0)] | None = None
    learning_rate: Positive | None = None


S = TypeVar("S", bound=GoingOnSettings)


def sized(settings: S, gradient_equivalents: float, local_epochs: int) -> S:
    """Return settings with the rounds that so much client compute allows, rounded up."""
    rounds = max(1, math.ceil(gradient_equivalents / local_epochs))
    return settings.model_copy(update={"rounds": rounds})


def train_on(
    name: str,
    settings: GoingOnSettings,
    trained: TrainedModel,
    federation: Federation,
    forget: ForgetSet,
    *,
    start: Tensor,
    first_round: int,
    watch: Watch | None = None,
) -> Unlearned:
    """Train on the retain set.

    Args:
        name: Of the method, for the progress bar.
        settings: Rounds and rate.
        trained: The model before, and how it was trained.
        federation: The nodes; those that leave are asked nothing.
        forget: What leaves.
        start: Weights to start from, shape (d,).
        first_round: Where in training's schedule.
        watch: As for ``UnlearningMethod.unlearn``.

    Returns:
        The model after, and how many rounds it took.
    """
    plan = TrainingPlan(
        settings=trained.settings,
        rounds=settings.rounds or ALONE,
        first_round=first_round,
        seed=trained.settings.seed,
        learning_rate=settings.learning_rate,
        without=forget,
    )

    def on_round(number: int, weights: Tensor) -> None:
        if watch is not None:
            watch(number - first_round + 1, weights)

    weights = federation.train(start, plan, label=f"{name}: rounds", on_round=on_round)
    return Unlearned(weights, "done", Claim.EMPIRICAL, {"rounds": plan.rounds})
