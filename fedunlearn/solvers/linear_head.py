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
        parts = np.split(self.gradient, np.cumsum([len(block) for block in self.blocks])[:-1])
        return np.concatenate(
            [
                -linalg.cho_solve(linalg.cho_factor(block, lower=True), part)
                for block, part in zip(self.blocks, parts, strict=True)
            ]
        )


def minimise(
    derivatives: Callable[[FloatArray], Derivatives],
    start: FloatArray,
    curvature: float,
    *,
    tolerance: float = 0.0,
    on_step: Callable[[int, FloatArray], None] | None = None,
) -> HeadSolution:
    """Minimise a strongly convex objective by Newton steps, halved until they decrease it.

    Args:
        derivatives: Maps weights (d,) to the objective's derivatives there.
        start: Weights W (k, p) before the first step.
        curvature: A lower bound mu > 0 of the curvature everywhere, such as the weight decay.
        tolerance: The relative error at which to stop; 0 to stop at the limit of rounding.
        on_step: Called with the number of evaluations and the weights (k, p) after each step.

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
        if on_step is not None:
            on_step(rounds, best.reshape(start.shape))
        if not improved and solution.relative_error < NEAR:
            break
    return HeadSolution(best.reshape(start.shape), best_norm, curvature, rounds)
