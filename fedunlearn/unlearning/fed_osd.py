"""FedOSD: steepest descent for the forget set, orthogonal to the updates of the nodes that stay.

Source: Pan, Wang, Li, Zheng, Wang, Zhou, "Federated Unlearning with Gradient Descent and Conflict
Mitigation", AAAI 2025, algorithm 1, and its code (github.com/zibinpan/FedOSD):

1. Unlearning: nodes that leave descend the unlearning cross-entropy
   (local_rules.UnlearningCrossEntropy), the others their loss, all at one rate. The server moves by
   the part of the leaving nodes' update that is orthogonal to the updates of all nodes that stay,
   scaled to the length of the whole update (equation 9), so that it conflicts with none of them.
2. Recovery: ordinary training, where each update loses its component along the line between the
   trained weights and the present ones, in either direction, and gets its length back
   (equation 12).

Nodes have equal weights in both parts, and every round is one broadcast. The method needs the nodes
that leave in every round of the first part, and each single update of the nodes that stay, which
secure aggregation would hide. As in the paper, a node's training of ``unlearning-epochs`` epochs
counts as its gradient. For samples and classes, every node that holds some of them takes both
roles, which the paper does not have; then it is sent two messages in the same broadcast.

What differs from the code: updates count as dependent below a singular value relative to the
largest, where the code drops eigenvalues of the Gram matrix of gradients below 1e-6, in the units
of the loss (with either, the code gives the same forget JS of 0.145 on ``fedosd_protocol``);
batches are drawn anew in every epoch, where the code keeps those of the first; the rate of
unlearning does not decay; and the first recovery round has the rate of recovery, where the code
still takes that of unlearning. On ``fedosd_protocol``, at rates of 0.1 in ten rounds of each part,
the code gives a forget JS of 0.097 to 0.145 over three orders of its batches, 0.084 to 0.110 where
it draws them anew, and this class 0.092 to 0.139.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
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
from fedunlearn.vectors import norm


class FedOsdSettings(ContinuedTrainingSettings):
    """Settings of fed-osd.

    Attributes:
        rounds: Number of recovery rounds; see ContinuedTrainingSettings.
        unlearning_rounds: Number of rounds of the first part.
        unlearning_rate: Step size of all nodes in the first part.
        unlearning_epochs: Local epochs of every node in each round of the first part.
    """

    unlearning_rounds: Annotated[int, Field(gt=0)] = 3
    unlearning_rate: Positive = 0.1
    unlearning_epochs: Annotated[int, Field(gt=0)] = 1


class FedOsd(UnlearningMethod[FedOsdSettings]):
    """Orthogonal steepest descent, then training that does not return to the old weights."""

    name: ClassVar[str] = "fed-osd"
    settings_type: ClassVar[type[Settings]] = FedOsdSettings
    grid: ClassVar[Grid] = {"unlearning-rounds": (3, 5), "unlearning-rate": (0.03, 0.1, 0.3, 1.0)}

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
        weights, rounds = trained.weights, settings.unlearning_rounds + recovery
        with federation.progress.piece(f"{self.name}: rounds", rounds):
            for number in range(rounds):
                if number < settings.unlearning_rounds:
                    step = self._away(weights, number, trained, federation, forget)
                else:
                    step = self._recover(weights, number, trained, federation, forget)
                weights = weights + step
                if on_round is not None:
                    on_round(number + 1, weights)
        return Unlearned(weights, "done", Claim.EMPIRICAL, {"rounds": rounds})

    def _away(
        self,
        weights: Tensor,
        number: int,
        trained: TrainedModel,
        federation: Federation,
        forget: ForgetSet,
    ) -> Tensor:
        """Return the step (d,) of a round of the first part."""
        settings = self.settings
        staying = TrainingPlan(
            trained.settings,
            1,
            trained.settings.rounds + 1 + number,
            trained.settings.seed,
            learning_rate=settings.unlearning_rate,
            local_epochs=settings.unlearning_epochs,
            without=forget,
        )
        leaving = replace(staying, part=Part.FORGET, rule=UnlearningCrossEntropy())
        wanted, others = federation.train_roles(weights, leaving, staying)
        return orthogonal(_updates(wanted, weights).mean(0), _updates(others, weights))

    def _recover(
        self,
        weights: Tensor,
        number: int,
        trained: TrainedModel,
        federation: Federation,
        forget: ForgetSet,
    ) -> Tensor:
        """Return the step (d,) of a round of recovery."""
        plan = TrainingPlan(
            trained.settings,
            1,
            trained.settings.rounds + 1 + number,
            trained.settings.seed,
            learning_rate=self.settings.learning_rate,
            without=forget,
        )
        local = federation.train_apart(weights, plan)
        line = weights - trained.weights
        updates = [across(update, line) for update in _updates(local, weights)]
        return torch.stack(updates).mean(0)

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
    independent = basis.S > basis.S[0] * len(others) * torch.finfo(others.dtype).eps
    rows = basis.Vh[independent]
    rest = update.double() - rows.T @ (rows @ update.double())
    length, whole = norm(rest), norm(update)
    if length <= whole * math.sqrt(torch.finfo(others.dtype).eps):
        return torch.zeros_like(update)
    stretched: Tensor = (rest * (whole / length)).to(update.dtype)
    return stretched


def across(update: Tensor, line: Tensor) -> Tensor:
    """Return the component of an update (d,) orthogonal to a line (d,), at full length."""
    return orthogonal(update, line[None]) if line.any() else update


def _updates(local: Mapping[int, LocalResult], weights: Tensor) -> Tensor:
    """Return the nodes' updates (k, d), in the order of their numbers."""
    return torch.stack([one.weights - weights for one in local.values()])
