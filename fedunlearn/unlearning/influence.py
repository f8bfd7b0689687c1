"""The influence objective of a removal, from three sources of its gradient.

With F the objective over all n examples, F_r and F_f that over the n_r that stay and the n_f that
leave, u = w0 + a (w^ - w0) and c the completion (undone.py):

    G(w) = F_r(w) - <b, w>,    grad G(u) = -(n_f/n_r) grad F_f(u) + c (n/n_r) grad F(w^).

=============  =========================================================  =====================
source         gradient of the step                                       who must answer
=============  =========================================================  =====================
``departing``  grad G(u), as above                                        all, those who leave once
``recorded``   grad F_r(u) - (n/n_r) [grad F(u) - c grad F(w^)]: the       those who stay
               same, from sums that were recorded when training ended
``retained``   grad F_r(w^), the paper's (arXiv 2406.14507, section 4):   those who stay
               b = 0, so that G is F_r; a and c do not enter it
=============  =========================================================  =====================

All agree where w^ is exactly stationary and u = w^; a federated average never is. With c = 1 and
u = w^ the first two are the third.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedunlearn.errors import ForgetSetError
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.objective import FederatedObjective
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.recording.gradient import GradientAt, RecordedGradient
from fedunlearn.unlearning.unfinished_training import Undone, measure_undone
from fedunlearn.vectors import dot

Source = Literal["departing", "recorded", "retained"]
Completion = Annotated[float, Field(ge=0, le=1, strict=False)] | Literal["auto"]

# Of a sum of losses, relative: a few units of rounding a chunk.
ROUNDINGS = 8.0


@dataclass(eq=False)
class Influence:
    """G around a point, over a pinned cohort.

    Attributes:
        objective: F_r.
        origin: Where G and its gradient are set up, shape (d,): u, for ``retained`` w^.
        curved_at: Where curvature is taken, shape (d,): u.
        linear: b, shape (d,); None where it is zero.
        undone: What training left undone; None where nobody knows grad F(w^).
        known: grad G at the origin, shape (d,), until it is taken.
        resolution: Up to which the changes that were last asked for are but rounding: nodes sum
            losses in the model's precision.
    """

    objective: FederatedObjective
    origin: Tensor
    curved_at: Tensor
    linear: Tensor | None
    undone: Undone | None
    known: Tensor | None
    resolution: float = 0.0

    def slope(self, moved: Tensor | None) -> Tensor:
        """Return grad G at origin + moved (d,): one round, none for the first at the origin.

        Nothing here keeps it: its memory is the caller's.
        """
        if moved is None and self.known is not None:
            slope, self.known = self.known, None
            return slope
        slope = self.objective.gradient(_sum(self.origin, moved))
        return slope if self.linear is None else slope.sub_(self.linear)

    def changes(self, moved: Tensor | None, steps: Tensor) -> Tensor:
        """Ask for G(origin + moved + step) - G(origin + moved): one round.

        Args:
            moved: (d,); None for no move.
            steps: (m, d).

        Returns:
            (m,), float64.
        """
        values = self.objective.losses(_sum(self.origin, moved), steps)
        self.resolution = rounding_of_losses(values, steps.dtype)
        changes = values[1:] - values[0]
        if self.linear is None:
            return changes
        return changes - changes.new_tensor([dot(step, self.linear) for step in steps])


def rounding_of_losses(values: Tensor, dtype: torch.dtype) -> float:
    """Return up to which the changes of losses (m,) that nodes summed in a dtype are rounding."""
    return ROUNDINGS * torch.finfo(dtype).eps * abs(float(values[0]))


def _sum(point: Tensor, moved: Tensor | None) -> Tensor:
    return point if moved is None else point + moved


def to_record(source: Source, linearise_at: float) -> tuple[GradientAt, ...]:
    """Return the gradients that training must record."""
    if source != "recorded":
        return ()
    return tuple(GradientAt(share) for share in sorted({linearise_at, 1.0}))


def open_influence(
    trained: TrainedModel,
    federation: Federation,
    forget: ForgetSet,
    *,
    source: Source,
    completion: Completion,
    linearise_at: float,
) -> Influence:
    """Ask for the gradients that the objective needs: one round, or two for ``departing``.

    Where the model has running statistics, ``departing`` has them estimated at u in a round more.

    Args:
        trained: The model, with what was recorded.
        federation: The nodes; for ``recorded`` and ``retained`` those that leave need not be there.
        forget: What leaves.
        source: Of the gradient.
        completion: c, or ``auto`` for the one that the gradients' examples give.
        linearise_at: a.

    Returns:
        The objective, with its gradient at the origin.

    Raises:
        NotRecordedError: The recorded gradient was asked for and is not there.
        ForgetSetError: Nothing would be forgotten, or nothing would stay.
    """
    decay = trained.settings.weight_decay
    point = trained.interpolated(linearise_at)
    given = None if completion == "auto" else completion
    if source == "departing":
        objective = federation.objective(
            forget, weight_decay=decay, without=forget.leavers - forget.nodes
        )
        told_at_end = objective.gradients(trained.weights)
        told = told_at_end
        if linearise_at != 1.0:
            objective.renew_statistics(point)
            told = objective.gradients(point)
        slope = told.departing
        examples = told.retained + told.forgotten
        whole = told_at_end.whole
        undone = measure_undone(
            trained,
            slope,
            whole,
            None if linearise_at == 1.0 else told.whole,
            share=told.forgotten / examples,
            linearise_at=linearise_at,
            completion=given,
        )
        slope.add_(whole, alpha=undone.completion * examples / told.retained)
        linear = told.retain - slope
        return Influence(objective, point, point, linear, undone, slope)

    objective = federation.objective(forget, weight_decay=decay, without=forget.leavers)
    if source == "retained":
        slope = objective.gradient(trained.weights)
        require_forgotten(objective, forget, None)
        return Influence(objective, trained.weights, point, None, None, slope)

    remedy = "use gradient = 'departing'"
    at_end: RecordedGradient = trained.recording(GradientAt(1.0), remedy)
    at_point: RecordedGradient = trained.recording(GradientAt(linearise_at), remedy)
    slope = objective.gradient(point)
    require_forgotten(objective, forget, at_end.examples)
    ratio = at_end.examples / objective.retained
    slope.add_(at_point.gradient, alpha=-ratio)
    undone = measure_undone(
        trained,
        slope,
        at_end.gradient,
        None if linearise_at == 1.0 else at_point.gradient,
        share=1.0 - objective.retained / at_end.examples,
        linearise_at=linearise_at,
        completion=given,
    )
    slope.add_(at_end.gradient, alpha=undone.completion * ratio)
    linear = at_point.gradient - undone.completion * at_end.gradient
    return Influence(objective, point, point, linear.mul_(ratio), undone, slope)


def require_forgotten(
    objective: FederatedObjective, forget: ForgetSet, examples: int | None
) -> None:
    """Check that something leaves, as far as those who stay can tell.

    Args:
        objective: After its first answers.
        forget: What leaves.
        examples: n, where it is known.

    Raises:
        ForgetSetError: Nobody has any of it.
    """
    known = objective.forgotten if examples is None else examples - objective.retained
    if (not forget.of_whole_nodes or examples is not None) and known <= 0:
        raise ForgetSetError(f"forget: no node has any example of {forget}")
