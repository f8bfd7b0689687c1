"""Recovery: ordinary training on what stays, after a removal."""

from __future__ import annotations

from torch import Tensor

from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.federation.training import TrainingPlan
from fedunlearn.questions.forget import ForgetSet


def recover(
    federation: Federation,
    trained: TrainedModel,
    forget: ForgetSet,
    weights: Tensor,
    rounds: int,
    *,
    name: str,
    path: list[tuple[int, Tensor]] | None = None,
) -> Tensor:
    """Train for a few more rounds without what left.

    Args:
        federation: The nodes.
        trained: The model before the removal, whose settings training goes by.
        forget: What left.
        weights: After the method, shape (d,).
        rounds: How many.
        name: Of the method, for the progress bar.
        path: Rounds spent and weights then; grows by those of recovery.

    Returns:
        The weights after, shape (d,); the same where no rounds are asked for.
    """
    if not rounds:
        return weights
    settings = trained.settings
    path = [(0, weights)] if path is None else path
    spent, first = path[-1][0], settings.rounds + 1
    plan = TrainingPlan(settings, rounds, first, settings.seed, without=forget)
    return federation.train(
        weights,
        plan,
        label=f"{name}: recovery",
        on_round=lambda number, at: path.append((spent + number - first + 1, at)),
    )
