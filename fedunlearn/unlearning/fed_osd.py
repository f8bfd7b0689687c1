"""FedOSD: steepest descent for the forget set, orthogonal to the updates of the nodes that stay.

Source: Pan, Wang, Li, Zheng, Wang, Zhou, "Federated Unlearning with Gradient Descent and Conflict
Mitigation", AAAI 2025, algorithm 1:

1. Unlearning: nodes that leave descend the unlearning cross-entropy
   (local_rules.UnlearningCrossEntropy). The server moves by the part of their update that is
   orthogonal to the updates of all nodes that stay, scaled to the length of the whole update
   (equation 9), so that it conflicts with none of them.
2. Recovery: ordinary training, where the component of each update that leads back to the trained
   weights is removed (equation 12).

The method needs the nodes that leave in every round of the first part, and each single update of
the nodes that stay, which secure aggregation would hide. As in the paper, a node's training of
``unlearning-epochs`` epochs counts as its gradient. For samples and classes, every node that holds
some of them takes both roles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.federation.training import LocalResult, OnRound, TrainingPlan
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.risk.local_rules import UnlearningCrossEntropy
from fedunlearn.settings import Positive, Settings
from fedunlearn.unlearning.continued_training import DEFAULT_ROUNDS, ContinuedTrainingSettings
from fedunlearn.unlearning.method import Claim, Grid, Unlearned, UnlearningMethod
from fedunlearn.vectors import dot, norm


class FedOsdSettings(ContinuedTrainingSettings):
    """Settings of fed-osd.

    Attributes:
        rounds: Number of recovery rounds; see ContinuedTrainingSettings.
        unlearning_rounds: Number of rounds of the first part; each takes two broadcasts.
        unlearning_rate: Step size on the forget set.
        unlearning_epochs: Local epochs of every node in each round of the first part.
    """

    unlearning_rounds: Annotated[int, Field(gt=0)] = 3
    unlearning_rate: Positive = 0.1
    unlearning_epochs: Annotated[int, Field(gt=0)] = 1


class FedOsd(UnlearningMethod[FedOsdSettings]):
    """Orthogonal steepest descent, then training that does not return to the old weights."""

    name: ClassVar[str] = "fed-osd"
    settings_type: ClassVar[type[Settings]] = FedOsdSettings
    grid: ClassVar[Grid] = {"unlearning-rounds": (2, 5), "unlearning-rate": (0.03, 0.1, 0.3, 1.0)}

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
        recovery = settings.rounds or DEFAULT_ROUNDS
        weights, spent = trained.weights, 0
        with federation.progress.piece(
            f"{self.name}: rounds", 2 * settings.unlearning_rounds + recovery
        ):
            for number in range(settings.unlearning_rounds):
                weights = weights + self._away(weights, number, trained, federation, forget)
                spent += 2
                if on_round is not None:
                    on_round(spent, weights)
            for number in range(recovery):
                plan = TrainingPlan(
                    trained.settings,
                    1,
                    trained.settings.rounds + 1 + number,
                    trained.settings.seed,
                    learning_rate=settings.learning_rate,
                    without=forget,
                )
                updates = _updates(federation.train_apart(weights, plan), weights)
                back = trained.weights - weights
                weights = weights + _average(
                    {node: (not_along(u, back), n) for node, (u, n) in updates.items()}
                )
                spent += 1
                if on_round is not None:
                    on_round(spent, weights)
        return Unlearned(weights, "done", Claim.EMPIRICAL, {"rounds": spent})

    def _away(
        self,
        weights: Tensor,
        number: int,
        trained: TrainedModel,
        federation: Federation,
        forget: ForgetSet,
    ) -> Tensor:
        """Return the step (d,) of one round of the first part."""
        settings = self.settings
        staying = TrainingPlan(
            trained.settings,
            1,
            trained.settings.rounds + 1 + number,
            trained.settings.seed,
            learning_rate=settings.learning_rate,
            local_epochs=settings.unlearning_epochs,
            without=forget,
        )
        leaving = TrainingPlan(
            trained.settings,
            1,
            staying.first_round,
            trained.settings.seed,
            learning_rate=settings.unlearning_rate,
            local_epochs=settings.unlearning_epochs,
            without=forget,
            part=Part.FORGET,
            rule=UnlearningCrossEntropy(),
        )
        wanted = _average(_updates(federation.train_apart(weights, leaving), weights))
        others = _updates(federation.train_apart(weights, staying), weights)
        return orthogonal(wanted, torch.stack([update for update, _ in others.values()]))

    @override
    def at_compute(self, gradient_equivalents: float, local_epochs: int) -> Self:
        if self.settings.rounds is not None:
            return self
        first = self.settings.unlearning_rounds * self.settings.unlearning_epochs
        rounds = max(1, math.ceil((gradient_equivalents - first) / local_epochs))
        return type(self)(self.settings.model_copy(update={"rounds": rounds}))


def orthogonal(update: Tensor, others: Tensor) -> Tensor:
    """Return the component of an update that is orthogonal to others, at the update's full length.

    The result is zero where the update lies in their span, up to the rounding of their dtype.

    Args:
        update: The update, shape (d,).
        others: The updates of the other nodes, shape (k, d).
    """
    basis = torch.linalg.svd(others.double(), full_matrices=False)
    independent = basis.S > basis.S[0] * max(others.shape) * torch.finfo(others.dtype).eps
    rows = basis.Vh[independent]
    rest = update.double() - rows.T @ (rows @ update.double())
    length, whole = norm(rest), norm(update)
    if length <= whole * math.sqrt(torch.finfo(others.dtype).eps):
        return torch.zeros_like(update)
    stretched: Tensor = (rest * (whole / length)).to(update.dtype)
    return stretched


def not_along(update: Tensor, direction: Tensor) -> Tensor:
    """Return an update (d,) without its component along a direction (d,), if that is positive."""
    along = dot(update, direction)
    square = dot(direction, direction)
    return update - (along / square) * direction if along > 0.0 and square else update


def _updates(local: Mapping[int, LocalResult], weights: Tensor) -> dict[int, tuple[Tensor, int]]:
    return {node: (one.weights - weights, one.examples) for node, one in local.items()}


def _average(updates: Mapping[int, tuple[Tensor, int]]) -> Tensor:
    examples = sum(count for _, count in updates.values())
    total = torch.zeros_like(next(iter(updates.values()))[0])
    for update, count in updates.values():
        total.add_(update, alpha=count / examples)
    return total
