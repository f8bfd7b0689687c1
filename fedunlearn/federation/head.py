"""Training of a linear head to the minimiser of its objective, from sums over nodes.

With n examples, the layer's weights W (k, p) and the regulariser over all of them:

    F(W) = (1/n) sum of losses + (lambda/2)|W|^2 + <b, W>/n

where b = 0 unless training is perturbed for certified removal. The squared loss takes one round,
after which the minimiser is a linear system; the others take a round for each Newton step.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fedunlearn.errors import ForgetSetError, InputError, NotRecordedError
from fedunlearn.federation.objective import FederatedObjective
from fedunlearn.parameters import ParameterLayout
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.head_moments import Moments, unpack_moments
from fedunlearn.questions.heads import Head, HeadDerivatives, HeadMoments
from fedunlearn.questions.subspace_summary import FloatArray, from_upper
from fedunlearn.risk.linear_head import HeadLoss
from fedunlearn.settings import TrainingSettings
from fedunlearn.solvers.linear_head import (
    Derivatives,
    HeadSolution,
    SingularError,
    accelerate,
    minimise,
    solve_ridge,
)
from fedunlearn.vectors import norm

if TYPE_CHECKING:
    from fedunlearn.federation.federation import Federation
    from fedunlearn.federation.trained_model import TrainedModel

LOSSES = {
    "ridge": HeadLoss.SQUARED,
    "logistic": HeadLoss.CROSS_ENTROPY,
    "one-vs-rest": HeadLoss.ONE_VS_REST,
}
# Relative distance to the minimiser up to which a model counts as trained to it: float32 rounding.
AT_MINIMISER = 1e-5
NOT_AT_MINIMISER = (
    "trained model: is not the minimiser of its objective, so that removal cannot be exact; train "
    "it with solver = 'ridge', 'logistic' or 'one-vs-rest', or take cubic-newton"
)
# Rounds of Newton's method that a progress bar expects.
EXPECTED_ROUNDS = 10
# Floats of one curvature: 512 MiB.
LARGEST_CURVATURE = 2**26


@dataclass(frozen=True)
class FittedHead:
    """The key in ``TrainedModel.recorded`` of what training computed in float64."""

    def __str__(self) -> str:
        """Return the name for messages."""
        return "minimiser"

    def record(self, trained: TrainedModel, federation: Federation) -> HeadFit:
        """Train again, for a model that was stored without it.

        Returns:
            The minimiser.

        Raises:
            NotRecordedError: The perturbation has no seed, or training gives another model.
        """
        settings = trained.settings
        if settings.perturbation and settings.perturbation_seed is None:
            raise NotRecordedError(
                "trained model: the noise of its training was not stored with it; record what "
                "methods need when it is trained (Federation.fit), or set perturbation-seed in an "
                "experiment"
            )
        fit = fit_head(federation, trained.weights, settings, seed=settings.seed)
        head = head_of(federation.layout, settings)
        best = to_flat(head, fit.solution.weights, trained.weights)
        if norm(trained.weights - best) > AT_MINIMISER * norm(best):
            raise NotRecordedError(NOT_AT_MINIMISER)
        return fit


@dataclass(frozen=True, eq=False)
class HeadFit:
    """A linear head, trained to its minimiser.

    Attributes:
        solution: The weights in float64, with the bound of their error.
        examples: Number n of examples.
        perturbation: b (k, p), of the objective's term <b, W>/n; None without.
        blocks: The blocks of the curvature near the minimiser, for steps from gradients alone;
            empty where it is not known.
    """

    solution: HeadSolution
    examples: int
    perturbation: FloatArray | None = None
    blocks: tuple[FloatArray, ...] = ()


def head_of(layout: ParameterLayout | None, settings: TrainingSettings) -> Head:
    """Return the linear head that a model trains.

    Args:
        layout: Layout of the model's trainable tensors.
        settings: Settings of training; the solver says which loss.

    Returns:
        The layer.

    Raises:
        InputError: The solver is averaging, or the model trains something else.
    """
    if settings.solver not in LOSSES:
        raise InputError(
            "training: solver = 'averaging' does not reach the minimiser of an objective, which "
            "exact and certified removal need; train a linear head on frozen layers with "
            "solver = 'ridge', 'logistic' or 'one-vs-rest'"
        )
    shapes = [tuple(shape) for shape in layout.shapes] if layout is not None else []
    bias = len(shapes) == 2
    linear = shapes and len(shapes[0]) == 2 and (not bias or shapes[1] == shapes[0][:1])
    if layout is None or not linear or len(shapes) > 2:
        trained = "an unknown layout" if layout is None else f"{len(shapes)} tensors"
        raise InputError(
            f"training: solver = {settings.solver!r} needs a model that trains one nn.Linear "
            f"after frozen layers, and this one trains {trained}; freeze the rest, or take "
            "solver = 'averaging'"
        )
    return Head(LOSSES[settings.solver], shapes[0][0], bias=bias, unit=bool(settings.perturbation))


def to_rows(head: Head, weights: Tensor) -> FloatArray:
    """Return a model's weights (d,) as W (k, p), with the bias as its last column; float64."""
    values = weights.double().cpu().numpy()
    if not head.bias:
        return values.reshape(head.outputs, -1).copy()
    matrix, bias = values[: -head.outputs], values[-head.outputs :]
    return np.concatenate([matrix.reshape(head.outputs, -1), bias[:, None]], axis=1)


def to_flat(head: Head, rows: FloatArray, like: Tensor) -> Tensor:
    """Return W (k, p) as a model's weights (d,), in the dtype of others."""
    parts = [rows.reshape(-1)]
    if head.bias:
        parts = [rows[:, :-1].reshape(-1), rows[:, -1]]
    return torch.from_numpy(np.concatenate(parts)).to(like.dtype)


def fit_head(
    federation: Federation,
    like: Tensor,
    settings: TrainingSettings,
    *,
    seed: int,
    without: ForgetSet | None = None,
    label: str = "training",
    draw: int = 0,
) -> HeadFit:
    """Train a linear head to its minimiser.

    Args:
        federation: The nodes.
        like: Weights (d,) of the model; Newton's method starts at 0, whatever they are.
        settings: The solver, the weight decay and the perturbation.
        seed: Seed of training, which is part of the perturbation's where that has one.
        without: The forget set, on which no node computes.
        label: Label of the progress bar.
        draw: Number of earlier draws of the perturbation, which make another of the same seed.

    Returns:
        The minimiser.
    """
    head = head_of(federation.layout, settings)
    if settings.perturbation:  # drawn anew by a run that resumes, at other points
        federation = replace(federation, journal=None)
    forget = without or ForgetSet.of_nodes()
    objective = federation.objective(
        forget, weight_decay=settings.weight_decay, without=forget.leavers
    )
    if head.loss is HeadLoss.SQUARED:
        with federation.progress.piece(label, 1):
            moments = total_moments(objective, head, like)
        return HeadFit(ridge_solution(moments, settings.weight_decay), moments.examples)
    perturbation = None
    if settings.perturbation:
        perturbation = _draw(settings, seed, to_rows(head, like).shape, draw=draw)
    start = np.zeros_like(to_rows(head, like))
    with federation.progress.piece(label, EXPECTED_ROUNDS):
        solution, blocks = newton_solution(objective, head, start, perturbation=perturbation)
    return HeadFit(solution, objective.retained, perturbation, blocks)


def total_moments(objective: FederatedObjective, head: Head, like: Tensor) -> Moments:
    """Return the second moments of the retain set: one round.

    Args:
        objective: The job.
        head: The layer.
        like: Weights (d,) of the model; their values do not matter.

    Returns:
        The sum over nodes.
    """
    groups = sorted(
        group_moments(objective, head, like, Part.RETAIN, by_label=False), key=lambda one: one[0]
    )
    _require_retained(objective)
    parts = [moments for _, _, moments in groups]
    return sum(parts[1:], parts[0])


def group_moments(
    objective: FederatedObjective, head: Head, like: Tensor, part: Part, *, by_label: bool
) -> list[tuple[int, int | None, Moments]]:
    """Return the second moments of each group of a part of the examples: one round.

    Args:
        objective: The job.
        head: The layer.
        like: Weights (d,) of the model; their values do not matter.
        part: The part of the examples.
        by_label: Whether groups are labels.

    Returns:
        Node, label (None for all of a node) and moments, in order of arrival.
    """
    inputs = head.inputs(len(like))
    found: list[tuple[int, int | None, Moments]] = []
    question = objective.question(torch.zeros_like(like), HeadMoments(head, by_label), (part,))
    for answer in objective.answers(question):
        for of_part, rows in answer.values.items():
            labels: tuple[int | None, ...] = answer.labels.get(of_part, ()) or (None,)
            for label, row in zip(labels, rows, strict=True):
                found.append((answer.node, label, unpack_moments(row, head, inputs)))
    return found


def ridge_solution(moments: Moments, weight_decay: float) -> HeadSolution:
    """Return the minimiser of the squared loss.

    Raises:
        InputError: There is none that is unique.
    """
    count = moments.examples
    try:
        return solve_ridge(
            moments.square / count,
            moments.cross / count,
            weight_decay,
            square_error=moments.square_error / count,
            cross_error=moments.cross_error / count,
        )
    except SingularError:
        raise InputError(
            f"training: with weight-decay = {weight_decay:g} the minimiser is not unique, since "
            "the head's inputs do not span all directions; raise weight-decay, as to 1e-3"
        ) from None


def newton_solution(
    objective: FederatedObjective,
    head: Head,
    start: Tensor | FloatArray,
    *,
    perturbation: FloatArray | None = None,
    tolerance: float = 0.0,
    known: tuple[FloatArray, ...] = (),
) -> tuple[HeadSolution, tuple[FloatArray, ...]]:
    """Minimise the objective over the retain set, by rounds.

    Up to a tolerance, rounds ask for gradients alone while that pays, with a curvature that is
    known or asked for once. Newton steps, whose rounds ask for the curvature too, do the rest.

    Args:
        objective: The job.
        head: The layer.
        start: Weights: a model's (d,), or W (k, p).
        perturbation: b (k, p); None for 0.
        tolerance: The relative error at which to stop; 0 to stop at the limit of rounding.
        known: The blocks of a curvature near that of the objective; empty for none.

    Returns:
        The minimiser, with the bound |gradient| / lambda of its error; and the blocks of the last
        curvature.

    Raises:
        InputError: The curvature is too large to be sent.
    """
    rows = to_rows(head, start) if isinstance(start, Tensor) else start
    size = rows.size if head.loss is HeadLoss.CROSS_ENTROPY else rows.shape[1]
    if size**2 > LARGEST_CURVATURE:
        raise InputError(
            f"training: the head's {rows.size} weights have a curvature of {size} x {size}, which "
            "is too large; take solver = 'ridge' or 'one-vs-rest', or an encoder with fewer outputs"
        )

    last = known

    def at(point: FloatArray, curvature: bool) -> Derivatives:
        nonlocal last
        found = retain_derivatives(
            objective, head, point.reshape(rows.shape), perturbation, curvature=curvature
        )
        last = tuple(found.blocks) or last
        return found

    decay = objective.weight_decay
    if tolerance:
        first = None if known else at(rows.reshape(-1), True).gradient
        solution = accelerate(
            lambda point: at(point, False).gradient,
            rows,
            last,
            decay,
            tolerance=tolerance,
            first=first,
        )
        if solution.relative_error <= tolerance:
            return solution, last
        rows = solution.weights
    solution = minimise(lambda point: at(point, True), rows, decay, tolerance=tolerance)
    return solution, last


def retain_derivatives(
    objective: FederatedObjective,
    head: Head,
    rows: FloatArray,
    perturbation: FloatArray | None,
    *,
    curvature: bool = True,
) -> Derivatives:
    """Return the derivatives of F over the retain set at weights (k, p): one round.

    Args:
        objective: The job.
        head: The layer.
        rows: Weights (k, p).
        perturbation: b (k, p); None for 0.
        curvature: Whether to ask for the curvature.

    Returns:
        The derivatives, without blocks where the curvature was not asked for.
    """
    point = torch.from_numpy(np.ascontiguousarray(rows).reshape(-1))
    sums = objective.ask(point, HeadDerivatives(head, curvature), (Part.RETAIN,))
    _require_retained(objective)
    values = sums[Part.RETAIN].numpy() / objective.retained
    decay, size = objective.weight_decay, rows.size
    flat = rows.reshape(-1)
    value = float(values[0]) + 0.5 * decay * float(flat @ flat)
    gradient = values[1 : 1 + size] + decay * flat
    if perturbation is not None:
        along = perturbation.reshape(-1) / objective.retained
        value += float(along @ flat)
        gradient = gradient + along
    if not curvature:
        return Derivatives(value, gradient, ())
    edge = rows.shape[1] if head.loss is HeadLoss.ONE_VS_REST else size
    blocks = [
        from_upper(entries, edge) + decay * np.eye(edge)
        for entries in np.split(values[1 + size :], size // edge)
    ]
    return Derivatives(value, gradient, blocks)


def _require_retained(objective: FederatedObjective) -> None:
    if not objective.retained:
        raise ForgetSetError(f"forget: {objective.forget} is all there is; something must stay")


def _draw(
    settings: TrainingSettings, seed: int, shape: tuple[int, ...], *, draw: int
) -> FloatArray:
    """Draw b with the standard deviation of the settings."""
    entropy: int | list[int] = secrets.randbits(256)
    if settings.perturbation_seed is not None:
        entropy = [settings.perturbation_seed, seed, draw]
    generator = np.random.default_rng(entropy)
    return settings.perturbation * generator.standard_normal(shape)
