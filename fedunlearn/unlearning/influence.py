"""The influence objective of a removal, from three sources of its gradient.

Let F be the objective over all examples, F_r over the retain set and F_f over the forget set, and
q = q_r + q_f their masses, in which a node counts by its steps, as in training
(questions/step_weights.py). With u = w0 + a (w^ - w0) and the completion c
(unfinished_training.py):

    G(w) = F_r(w) - <b, w>,    grad G(u) = -(q_f/q_r) grad F_f(u) + c (q/q_r) grad F(w^).

=============  =========================================================  ==========================
source         gradient of the step                                       nodes that must answer
=============  =========================================================  ==========================
``departing``  grad G(u), as above                                        all; those that leave once
``recorded``   grad F_r(u) - (q/q_r) [grad F(u) - c grad F(w^)]: the       those that stay
               same, from sums that were recorded when training ended
``retained``   grad F_r(w^), the paper's (arXiv 2406.14507, section 4):   those that stay
               b = 0, so that G is F_r; a and c do not enter it
=============  =========================================================  ==========================

All three agree where w^ is exactly stationary and u = w^; a federated average never is. With c = 1
and u = w^ the first two equal the third.
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
from fedunlearn.model_state import ModelState
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.recording.gradient import GradientAt, RecordedGradient
from fedunlearn.recording.reduced import natural_damping
from fedunlearn.unlearning.unfinished_training import Undone, measure_undone
from fedunlearn.vectors import dot

Source = Literal["departing", "recorded", "retained"]
NodeWeights = Literal["steps", "examples"]
Completion = Annotated[float, Field(ge=0, le=1, strict=False)] | Literal["auto"]

# The share of the way at which a second gradient shows how far training had converged.
SEEN_AT = 0.85

# The rounding error of a sum of losses, relative: a few units of rounding per chunk.
ROUNDINGS = 8.0


@dataclass(eq=False)
class Influence:
    """The influence objective G around a point, over a pinned cohort.

    Attributes:
        objective: The objective F_r.
        origin: Point where G and its gradient are set up, shape (d,): u, or w^ for ``retained``.
        curved_at: Point where curvature is taken, shape (d,): the point u.
        linear: The vector b, shape (d,); None where it is zero.
        undone: The unfinished training; None where grad F(w^) is not known.
        time: The time of gradient flow that equals training on the retain set (settings.py); None
            where the settings of training are not known.
        known: The gradient of G at the origin, shape (d,), until it is used.
        resolution: Size below which the changes that were computed last are only rounding, since
            nodes sum losses in the model's precision.
    """

    objective: FederatedObjective
    origin: Tensor
    curved_at: Tensor
    linear: Tensor | None
    undone: Undone | None
    time: float | None
    known: Tensor | None
    resolution: float = 0.0

    @property
    def natural_damping(self) -> float:
        """The damping 1/(2T) of training that went on for a time T; 0 where T is not known."""
        if self.time is not None:
            return natural_damping(self.time)
        return self.undone.least_damping if self.undone is not None else 0.0

    def slope(self, moved: Tensor | None) -> Tensor:
        """Return grad G at origin + moved (d,): one round, or none the first time at the origin.

        The objective holds no reference to the result, so that the caller can free its memory.
        """
        if moved is None and self.known is not None:
            slope, self.known = self.known, None
            return slope
        slope = self.objective.gradient(_sum(self.origin, moved))
        return slope if self.linear is None else slope.sub_(self.linear)

    def changes(self, moved: Tensor | None, steps: Tensor) -> Tensor:
        """Return G(origin + moved + step) - G(origin + moved): one round.

        Args:
            moved: The move (d,) from the origin; None for no move.
            steps: The steps (m, d).

        Returns:
            The changes (m,), float64.
        """
        values = self.objective.losses(_sum(self.origin, moved), steps)
        self.resolution = rounding_of_losses(values, steps.dtype)
        changes = values[1:] - values[0]
        if self.linear is None:
            return changes
        return changes - changes.new_tensor([dot(step, self.linear) for step in steps])


def rounding_of_losses(values: Tensor, dtype: torch.dtype) -> float:
    """Return the size below which changes of losses (m,), summed in a dtype, are only rounding."""
    return ROUNDINGS * torch.finfo(dtype).eps * abs(float(values[0]))


def _sum(point: Tensor, moved: Tensor | None) -> Tensor:
    return point if moved is None else point + moved


def to_record(
    source: Source, linearise_at: float, node_weights: NodeWeights
) -> tuple[GradientAt, ...]:
    """Return the gradients that training must record."""
    if source != "recorded":
        return ()
    by_steps = node_weights == "steps"
    return tuple(GradientAt(share, by_steps) for share in sorted({linearise_at, 1.0}))


def open_influence(
    trained: TrainedModel,
    federation: Federation,
    forget: ForgetSet,
    *,
    source: Source,
    completion: Completion,
    linearise_at: float,
    node_weights: NodeWeights,
) -> Influence:
    """Request the gradients that the objective needs: one round, or two for ``departing``.

    Where the model has running statistics, ``departing`` takes one more round to estimate them at
    u.

    Args:
        trained: The model, with the recordings that were made when training ended.
        federation: The nodes. For ``recorded`` and ``retained``, the nodes that leave need not
            answer.
        forget: The forget set.
        source: The source of the gradient.
        completion: The share c, or ``auto`` for the one that follows from the numbers of examples.
        linearise_at: The share a of the way from w0 to w^.
        node_weights: Whether a node counts by its steps or by its examples.

    Returns:
        The objective, with its gradient at the origin.

    Raises:
        NotRecordedError: The source is ``recorded`` and no gradient was recorded.
        ForgetSetError: No example would be forgotten, or none would stay.
    """
    decay = trained.settings.weight_decay
    point = trained.interpolated(linearise_at)
    given = None if completion == "auto" else completion
    by_steps = node_weights == "steps"
    step_batch = trained.settings.step_batch if by_steps else None
    if source == "departing":
        objective = federation.objective(
            forget,
            weight_decay=decay,
            without=forget.leavers - forget.nodes,
            step_batch=step_batch,
        )
        at_end = objective.gradients(trained.weights)
        at_point = at_end
        if linearise_at != 1.0:
            objective.renew_statistics(point)
            at_point = objective.gradients(point)
        elsewhere = None if linearise_at == 1.0 else at_point.whole
        seen_at = linearise_at
        if linearise_at == 1.0 and not trained.settings_known and trained.initial is not None:
            seen_at = SEEN_AT  # how far training had converged shows in a second gradient only
            between = trained.interpolated(seen_at)
            objective.renew_statistics(between)
            elsewhere = objective.gradients(between).whole
            objective.state = ModelState.of(federation.state)
        slope = at_point.departing
        examples = at_point.retained + at_point.forgotten
        whole = at_end.whole
        undone = measure_undone(
            trained,
            slope,
            whole,
            elsewhere,
            share=at_point.forgotten / examples,
            linearise_at=seen_at,
            completion=given,
            time=_time(trained, objective, Part.RETAIN, Part.FORGET),
        )
        slope.add_(whole, alpha=undone.completion * at_point.mass / at_point.retained_mass)
        linear = at_point.retain - slope
        time = _time(trained, objective, Part.RETAIN)
        return Influence(objective, point, point, linear, undone, time, slope)

    objective = federation.objective(
        forget, weight_decay=decay, without=forget.leavers, step_batch=step_batch
    )
    if source == "retained":
        slope = objective.gradient(trained.weights)
        require_forgotten(objective, forget, None)
        time = _time(trained, objective, Part.RETAIN)
        return Influence(
            objective,
            trained.weights,
            point,
            None,
            None,
            time,
            slope,
        )

    remedy = "use gradient = 'departing'"
    recorded_at_end: RecordedGradient = trained.recording(GradientAt(1.0, by_steps), remedy)
    recorded: RecordedGradient = trained.recording(GradientAt(linearise_at, by_steps), remedy)
    slope = objective.gradient(point)
    require_forgotten(objective, forget, recorded_at_end.examples)
    ratio = recorded_at_end.mass / objective.mass(Part.RETAIN)
    slope.add_(recorded.gradient, alpha=-ratio)
    undone = measure_undone(
        trained,
        slope,
        recorded_at_end.gradient,
        None if linearise_at == 1.0 else recorded.gradient,
        share=1.0 - objective.retained / recorded_at_end.examples,
        linearise_at=linearise_at,
        completion=given,
        time=_time(trained, objective, Part.RETAIN),
    )
    slope.add_(recorded_at_end.gradient, alpha=undone.completion * ratio)
    linear = recorded.gradient - undone.completion * recorded_at_end.gradient
    time = _time(trained, objective, Part.RETAIN)
    return Influence(
        objective,
        point,
        point,
        linear.mul_(ratio),
        undone,
        time,
        slope,
    )


def _time(trained: TrainedModel, objective: FederatedObjective, *parts: Part) -> float | None:
    """Return the time of training on some parts, where the settings of training are known."""
    if not trained.settings_known:
        return None
    sizes = (sum(counts[part] for part in parts) for counts in objective.cohort.counts.values())
    return trained.settings.horizon([size for size in sizes if size])


def require_forgotten(
    objective: FederatedObjective, forget: ForgetSet, examples: int | None
) -> None:
    """Check that the forget set is not empty, as far as the answers of the nodes show.

    Args:
        objective: The objective, after its first answers.
        forget: The forget set.
        examples: The number n of all examples, where it is known.

    Raises:
        ForgetSetError: No node has any example of the forget set.
    """
    known = objective.forgotten if examples is None else examples - objective.retained
    if (not forget.of_whole_nodes or examples is not None) and known <= 0:
        raise ForgetSetError(f"forget: no node has any example of {forget}")
