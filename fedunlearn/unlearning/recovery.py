"""Recovery: ordinary training on the retain set, after a removal."""

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
    """Train for a few more rounds without the forget set.

    Args:
        federation: The nodes.
        trained: The model before the removal, whose training settings apply.
        forget: The forget set.
        weights: Weights after the method, shape (d,).
        rounds: Number of recovery rounds.
        name: Name of the method, for the progress bar.
        path: Pairs of rounds spent and weights after them; recovery appends its own.

    Returns:
        The weights after recovery, shape (d,); the same weights where ``rounds`` is 0.
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
