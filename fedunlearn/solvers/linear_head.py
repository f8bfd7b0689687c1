"""The minimiser of a convex objective in the weights of a linear head, with a bound of its error.

For an objective with curvature at least mu everywhere, the distance of any weights to its minimiser
is at most |gradient| / mu. Both are known after the solution, so that the bound is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

FloatArray = NDArray[np.float64]

EPSILON = float(np.finfo(np.float64).eps)
MAX_ROUNDS = 100
# Halvings of a Newton step that does not decrease the objective.
HALVINGS = 30
# A step that improves the gradient by less than this has reached the limit of rounding.
IMPROVES = 0.5
NEAR = 1e-6
# Rounds of gradients alone, and the largest ratio of two gradients at which they still pay.
MAX_ACCELERATED = 40
PAYS = 0.6
# Earlier steps that Anderson's method combines.
HISTORY = 8


class SingularError(ArithmeticError):
    """The objective has no unique minimiser in float64."""


@dataclass(frozen=True, eq=False)
class HeadSolution:
    """Weights near a minimiser.

    Attributes:
        weights: W (k, p), float64.
        gradient_norm: Norm of the gradient there, rounding included.
        curvature: A lower bound mu of the smallest eigenvalue of the curvature.
        rounds: Evaluations of the derivatives.
    """

    weights: FloatArray
    gradient_norm: float
    curvature: float
    rounds: int = 0

    @property
    def error(self) -> float:
        """Bound of the distance to the minimiser."""
        return self.gradient_norm / self.curvature

    @property
    def relative_error(self) -> float:
        """The bound of the distance, relative to the norm of the minimiser."""
        rest = float(np.linalg.norm(self.weights)) - self.error
        return self.error / rest if rest > 0.0 else (0.0 if self.error == 0.0 else float("inf"))


def solve_ridge(
    square: FloatArray,
    cross: FloatArray,
    weight_decay: float,
    *,
    square_error: float = 0.0,
    cross_error: float = 0.0,
) -> HeadSolution:
    """Minimise 1/2 tr(W S W') - tr(W C) + (lambda/2)|W|^2 over W (k, p).

    Args:
        square: S = X'X / n, shape (p, p).
        cross: C = X'Y / n, shape (p, k).
        weight_decay: The weight decay lambda.
        square_error: Bound of the error of S in the Frobenius norm.
        cross_error: The same for C.

    Returns:
        The minimiser; its bound counts the errors of S and C and all rounding.

    Raises:
        SingularError: S + lambda I is singular in float64.
    """
    size = len(square)
    matrix = square + weight_decay * np.eye(size)
    norm = float(np.linalg.norm(matrix))
    lowest = float(linalg.eigvalsh(matrix, subset_by_index=[0, 0])[0])
    certain = max(weight_decay, lowest - square_error - size * EPSILON * norm)
    try:
        factor = linalg.cho_factor(matrix, lower=True)
    except linalg.LinAlgError as error:
        raise SingularError("singular") from error
    if certain <= 0.0:
        raise SingularError("singular")
    weights = linalg.cho_solve(factor, cross)
    weights = weights + linalg.cho_solve(factor, cross - matrix @ weights)
    length = float(np.linalg.norm(weights))
    rounding = size * EPSILON * (norm * length + float(np.linalg.norm(cross)))
    residual = float(np.linalg.norm(cross - matrix @ weights))
    total = residual + rounding + square_error * length + cross_error
    return HeadSolution(weights.T.copy(), total, certain)


@dataclass(frozen=True, eq=False)
class Derivatives:
    """A convex objective at some weights (d,), d = k p.

    Attributes:
        value: Its value.
        gradient: Its gradient (d,).
        blocks: The blocks of its block-diagonal curvature, in order.
    """

    value: float
    gradient: FloatArray
    blocks: Sequence[FloatArray]

    def newton_step(self) -> FloatArray:
        """Return the step (d,) to the minimiser of the quadratic model."""
        return -Factors(self.blocks).solve(self.gradient)


class Factors:
    """The Cholesky factors of a block-diagonal, positive definite matrix."""

    def __init__(self, blocks: Sequence[FloatArray]) -> None:
        """Factor the blocks, in order."""
        self._factors = [linalg.cho_factor(block, lower=True) for block in blocks]
        self._cuts = np.cumsum([len(block) for block in blocks])[:-1]

    def solve(self, vector: FloatArray) -> FloatArray:
        """Return the inverse of the matrix times a vector (d,)."""
        parts = np.split(vector, self._cuts)
        return np.concatenate(
            [linalg.cho_solve(f, part) for f, part in zip(self._factors, parts, strict=True)]
        )


def accelerate(
    gradient: Callable[[FloatArray], FloatArray],
    start: FloatArray,
    blocks: Sequence[FloatArray],
    curvature: float,
    *,
    tolerance: float,
    first: FloatArray | None = None,
) -> HeadSolution:
    """Minimise a strongly convex objective from gradients alone, with curvature that is known.

    Steps are those of Newton's method with a curvature of another point or of other data, combined
    by Anderson's method (Walker and Ni 2011): on a quadratic objective that is GMRES,
    preconditioned by the known curvature.

    Args:
        gradient: Maps weights (d,) to the objective's gradient there.
        start: Weights W (k, p) before the first step.
        blocks: The blocks of a curvature near that of the objective.
        curvature: A lower bound mu > 0 of the objective's curvature everywhere.
        tolerance: The relative error at which to stop.
        first: The gradient at the start, where it is known.

    Returns:
        The weights with the smallest gradient: before the tolerance is met where further rounds
        would not pay.
    """
    factors = Factors(blocks)
    point = start.reshape(-1)
    here = gradient(point) if first is None else first
    rounds, poor = 1, 0
    best = HeadSolution(start, float(np.linalg.norm(here)), curvature, rounds)
    residual = -factors.solve(here)
    moves: list[FloatArray] = []
    changes: list[FloatArray] = []
    while best.relative_error > tolerance and rounds < MAX_ACCELERATED and poor < 2:
        step = residual
        if moves:
            along = np.stack(changes, axis=1)
            share = np.linalg.lstsq(along, residual, rcond=1e-12)[0]
            step = residual - (np.stack(moves, axis=1) + along) @ share
        point = point + step
        there = gradient(point)
        rounds += 1
        norm = float(np.linalg.norm(there))
        poor = poor + 1 if norm > PAYS * best.gradient_norm else 0
        if norm < best.gradient_norm:
            best = HeadSolution(point.reshape(start.shape), norm, curvature, rounds)
        after = -factors.solve(there)
        moves = [*moves, step][-HISTORY:]
        changes = [*changes, after - residual][-HISTORY:]
        residual = after
    return HeadSolution(best.weights, best.gradient_norm, curvature, rounds)


def minimise(
    derivatives: Callable[[FloatArray], Derivatives],
    start: FloatArray,
    curvature: float,
    *,
    tolerance: float = 0.0,
) -> HeadSolution:
    """Minimise a strongly convex objective by Newton steps, halved until they decrease it.

    Args:
        derivatives: Maps weights (d,) to the objective's derivatives there.
        start: Weights W (k, p) before the first step.
        curvature: A lower bound mu > 0 of the curvature everywhere, such as the weight decay.
        tolerance: The relative error at which to stop; 0 to stop at the limit of rounding.

    Returns:
        The weights with the smallest gradient.
    """
    point = start.reshape(-1)
    here = derivatives(point)
    rounds = 1
    best, best_norm = point, float(np.linalg.norm(here.gradient))
    while rounds < MAX_ROUNDS:
        solution = HeadSolution(best.reshape(start.shape), best_norm, curvature, rounds)
        if best_norm == 0.0 or solution.relative_error <= tolerance:
            break
        step, scale = here.newton_step(), 1.0
        for _ in range(HALVINGS):
            there = derivatives(point + scale * step)
            rounds += 1
            norm = float(np.linalg.norm(there.gradient))
            if norm < best_norm or there.value < here.value:
                break
            if solution.relative_error < NEAR or rounds >= MAX_ROUNDS:
                break  # rounding, not the length of the step
            scale /= 2.0
        point, here = point + scale * step, there
        improved = norm < IMPROVES * best_norm
        if norm < best_norm:
            best, best_norm = point, norm
        if not improved and solution.relative_error < NEAR:
            break
    return HeadSolution(best.reshape(start.shape), best_norm, curvature, rounds)
