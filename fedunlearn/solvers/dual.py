"""The cubic subproblem through its one-dimensional dual, dense: a reference for small problems.

For sigma >= 0 let (M/6)||s||^3 >= (sigma/2)||s||^2 - (2/3) sigma^3 / M^2, with equality at
sigma = (M/2)||s||. Where H + sigma I is positive definite, minimising the right-hand side of
m(s) over s gives s(sigma) = -(H + sigma I)^-1 g and the dual

    D(sigma) = -1/2 g'(H + sigma I)^-1 g - (2/3) sigma^3 / M^2 <= m(s) for all s,

concave, with D'(sigma) = 1/2 ||s(sigma)||^2 - 2 sigma^2 / M^2. Its supremum equals the smallest
m(s) (Nesterov, Polyak 2006, section 5, where r = 2 sigma / M is the unknown; Bui et al.,
arXiv 2406.14507, section 4). So every D(sigma) is a certificate: no step lies below it.

D' is followed to its zero by Cholesky factors and Newton's method on
1/||s(sigma)|| - M / (2 sigma), which is concave and increasing (Cartis, Gould, Toint 2011,
section 6.1). The primal step is s(sigma) + tau z with z the leftmost direction and tau such that
the length is 2 sigma / M; then
m(s) - D(sigma) = 1/2 tau^2 z'(H + sigma I) z, which vanishes in the hard case too, where
s(sigma) stays too short up to the pole (More, Sorensen 1983, section 3). No eigenbasis, no
logarithms: nothing is shared with ``minimise_cubic``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import linalg
from torch import Tensor
from typing_extensions import override

from fedunlearn.errors import NonFiniteError
from fedunlearn.solvers.cubic import CubicSolver, CubicStep, CubicSubproblem
from fedunlearn.solvers.secular import FloatArray
from fedunlearn.solvers.solution import Status

LARGEST_DIMENSION = 2000  # a matrix of 32 MB, and ten to thirty factorisations of it

EPSILON = float(np.finfo(float).eps)
ITERATIONS = 300  # bisection alone would need 60


@dataclass(frozen=True, eq=False)
class DualOptimum:
    """The maximiser of the dual and the step that belongs to it.

    Attributes:
        step: s of shape (d,).
        damping: sigma, which equals (M/2)||s|| to rounding, in units of curvature.
        value: D(sigma), a lower bound of m to rounding; minus infinity where m is unbounded.
        status: CONVERGED, HARD_CASE, STATIONARY or UNBOUNDED.
    """

    step: FloatArray
    damping: float
    value: float
    status: Status


def maximise_dual(matrix: FloatArray, gradient: FloatArray, weight: float) -> DualOptimum:
    """Solve a dense cubic subproblem exactly, through its dual.

    Args:
        matrix: H of shape (d, d), symmetric, finite.
        gradient: g of shape (d,), finite.
        weight: M >= 0; 0 asks for the shortest Newton step.

    Returns:
        The optimum. HARD_CASE means that sigma is the pole -lambda_min(H) to rounding.

    Raises:
        ValueError: The weight is negative.
    """
    if weight < 0.0:
        raise ValueError(f"the cubic weight must not be negative, got {weight}")
    norm = float(np.linalg.norm(gradient))
    spread = float(np.linalg.norm(matrix))
    rounding = 8.0 * gradient.size * EPSILON
    if norm == 0.0 and _factor(matrix, rounding * spread or 1.0) is not None:
        return DualOptimum(np.zeros_like(gradient), 0.0, 0.0, Status.STATIONARY)
    if weight == 0.0:
        return _newton(matrix, gradient, rounding * spread or 1.0)

    # In units of the curvature h and the length below, the model has H at most 1, g equal to 1 or
    # 0, and a weight of at most 1: nothing overflows.
    unit = max(spread, math.sqrt(weight) * math.sqrt(norm))
    length = norm / unit if norm else unit / weight
    value_unit = norm * length if norm else unit * length**2
    found = _Search(
        matrix / unit,
        gradient / norm if norm else gradient,
        (weight / unit) * (norm / unit) if norm else 1.0,
    ).run()
    at_pole = found.gap <= rounding < found.damping
    return DualOptimum(
        found.step * length,
        found.damping * unit,
        found.value * value_unit,
        Status.HARD_CASE if at_pole else Status.CONVERGED,
    )


@dataclass(frozen=True, eq=False)
class _Found:
    step: FloatArray
    damping: float
    value: float
    gap: float  # z'(H + sigma I) z: from minus sigma to the leftmost eigenvalue
    residual: float


class _Search:
    """Maximises D in units where ||H|| <= 1, ||g|| is 0 or 1, and 0 < M <= 1."""

    def __init__(self, matrix: FloatArray, gradient: FloatArray, weight: float) -> None:
        self.matrix = matrix
        self.gradient = gradient
        self.weight = weight
        self.rounding = 8.0 * gradient.size * EPSILON
        self.leftmost = np.random.default_rng(0).standard_normal(gradient.size)

    def run(self) -> _Found:
        # ||g|| / (1 + sigma) <= ||s(sigma)|| <= ||g|| / (sigma - 1)
        product = 0.5 * self.weight * float(np.linalg.norm(self.gradient))
        root = math.sqrt(1.0 + 4.0 * product)
        low, high = 2.0 * product / (1.0 + root), 0.5 * (1.0 + root) + self.rounding
        sigma = high
        found: _Found | None = None
        for _ in range(ITERATIONS):
            factor = _factor(self.matrix, sigma)
            if factor is None:
                low, share, guess = sigma, 0.5, math.nan
            else:
                step = -linalg.cho_solve(factor, self.gradient)
                point = self._primal(factor, step, sigma)
                if found is None or point.residual <= found.residual:
                    found = point  # the last at the pole are noise, so not simply the last
                length = float(np.linalg.norm(step))
                if 0.5 * self.weight * length < sigma:
                    # The Rayleigh quotient bounds the pole from below, so low tends to it fast.
                    low, high, share = max(low, sigma - point.gap), sigma, 0.01
                else:
                    low, share = sigma, 0.5
                guess = self._newton_guess(factor, step, length, sigma)
                if abs(guess - sigma) <= EPSILON * sigma:
                    break
            if high - low <= 2.0 * EPSILON * high:
                break
            sigma = guess if low < guess < high else low + share * (high - low)
        if found is None:
            raise AssertionError("H + sigma I is positive definite from sigma = ||H|| on")
        return found

    def _newton_guess(
        self, factor: tuple[FloatArray, bool], step: FloatArray, length: float, sigma: float
    ) -> float:
        if length == 0.0:
            return math.nan
        excess = 1.0 / length - 0.5 * self.weight / sigma
        shrinkage = float(step @ linalg.cho_solve(factor, step)) / length**2
        return sigma - excess / (shrinkage / length + 0.5 * self.weight / sigma**2)

    def _primal(self, factor: tuple[FloatArray, bool], step: FloatArray, sigma: float) -> _Found:
        """Bring s(sigma) to length 2 sigma / M along the leftmost direction."""
        for _ in range(3):
            self.leftmost = linalg.cho_solve(factor, self.leftmost)
            self.leftmost /= np.linalg.norm(self.leftmost)
        overlap = float(step @ self.leftmost)
        radius = 2.0 * sigma / self.weight
        missing = (radius - float(np.linalg.norm(step))) * (radius + float(np.linalg.norm(step)))
        tau = -overlap  # as near as z leads to a length that rounding took out of its reach
        if overlap**2 + missing > 0.0:
            # The smaller root of tau^2 + 2 tau overlap = missing, without cancellation.
            tau = missing / (overlap + math.copysign(math.sqrt(overlap**2 + missing), overlap))
        value = 0.5 * float(self.gradient @ step) - sigma * radius**2 / 6.0
        gap = sigma + float(self.leftmost @ self.matrix @ self.leftmost)
        # Where z lies across s(sigma), all of tau may be rounding.
        candidates = [(self._residual(s, sigma), s) for s in (step, step + tau * self.leftmost)]
        residual, step = min(candidates, key=lambda candidate: candidate[0])
        return _Found(step, sigma, value, gap, residual)

    def _residual(self, step: FloatArray, sigma: float) -> float:
        """How far the step is from (H + sigma I)s = -g and ||s|| = 2 sigma / M together."""
        force = self.matrix @ step + sigma * step + self.gradient
        missing = 2.0 * sigma / self.weight - float(np.linalg.norm(step))
        return float(np.linalg.norm(force)) + sigma * abs(missing)


def _newton(matrix: FloatArray, gradient: FloatArray, tolerance: float) -> DualOptimum:
    """Return the shortest Newton step; the model must be bounded."""
    shortest = linalg.lstsq(matrix, -gradient, cond=8.0 * gradient.size * EPSILON)[0]
    left = float(np.linalg.norm(matrix @ shortest + gradient))
    negligible = tolerance * float(np.linalg.norm(shortest))
    negligible += 8.0 * gradient.size * EPSILON * float(np.linalg.norm(gradient))
    if left > negligible or _factor(matrix, tolerance) is None:
        return DualOptimum(np.zeros_like(gradient), 0.0, -math.inf, Status.UNBOUNDED)
    return DualOptimum(shortest, 0.0, 0.5 * float(gradient @ shortest), Status.CONVERGED)


def _factor(matrix: FloatArray, shift: float) -> tuple[FloatArray, bool] | None:
    """Return the Cholesky factor of H + shift I, or None where it is not positive definite."""
    shifted = matrix.copy()
    shifted[np.diag_indices_from(shifted)] += shift
    try:
        factor, lower = linalg.cho_factor(shifted, lower=True, overwrite_a=True)
    except linalg.LinAlgError:
        return None
    return factor, bool(lower)


class DualCubicSolver(CubicSolver):
    """Exact minimisation through the dual (Bui et al., arXiv 2406.14507, section 4).

    The matrix is assembled by multiplying the identity: d products in one call, hence one round.
    All arithmetic is float64, whatever the operator's dtype. This is a reference, not a method
    for networks: see ``LARGEST_DIMENSION``.
    """

    @override
    def solve(self, problem: CubicSubproblem, /, *, rtol: float, max_products: int) -> CubicStep:
        """Minimise the model to rounding.

        Args:
            problem: Operator, gradient and weight.
            rtol: Not needed: there is no cheaper answer than the exact one.
            max_products: At least d, or nothing is solved: the step is zero, no product is
                spent, and the status is BUDGET_SPENT.

        Returns:
            The global minimiser, with ``ritz_values`` empty because no spectrum is computed.

        Raises:
            ValueError: The dimension is too large, or the weight or the budget out of range.
            NonFiniteError: The gradient or a product holds NaN or infinity.
        """
        operator, weight = problem.operator, problem.weight
        if operator.dimension > LARGEST_DIMENSION:
            raise ValueError(
                f"the dual solver assembles a dense matrix, up to d = {LARGEST_DIMENSION}, "
                f"got d = {operator.dimension}: use the Krylov solver"
            )
        if max_products < 1:
            raise ValueError(f"max_products must be at least 1, got {max_products}")
        if weight < 0.0:
            raise ValueError(f"the cubic weight must not be negative, got {weight}")
        gradient = _finite(problem.gradient, "the gradient")
        at_rest = not gradient.any()
        if at_rest and operator.positive_semidefinite:
            return _nowhere(problem, 0, Status.STATIONARY)
        if max_products < operator.dimension:
            return _nowhere(problem, 0, Status.BUDGET_SPENT)
        identity = torch.eye(operator.dimension, dtype=operator.dtype)
        matrix = _finite(operator.matmat(identity), "a product")
        matrix = (matrix + matrix.T) / 2.0

        found = maximise_dual(matrix, gradient, weight)
        if found.status in (Status.UNBOUNDED, Status.STATIONARY):
            return _nowhere(problem, operator.dimension, found.status)
        length = float(np.linalg.norm(found.step))
        damping = 0.5 * weight * length
        image = matrix @ found.step
        quadratic = float(gradient @ found.step + 0.5 * found.step @ image)
        residual = float(np.linalg.norm(image + damping * found.step + gradient))
        return CubicStep(
            step=torch.from_numpy(found.step).to(operator.dtype),
            weight=weight,
            damping=damping,
            predicted=quadratic + damping * length**2 / 3.0,
            quadratic=quadratic,
            residual=0.0 if at_rest else residual / float(np.linalg.norm(gradient)),
            ritz_values=(),
            products=operator.dimension,
            status=found.status,
        )


def _nowhere(problem: CubicSubproblem, products: int, status: Status) -> CubicStep:
    value = -math.inf if status is Status.UNBOUNDED else 0.0
    return CubicStep(
        step=torch.zeros_like(problem.gradient),
        weight=problem.weight,
        damping=0.0,
        predicted=value,
        quadratic=value,
        residual=1.0 if bool(problem.gradient.any()) else 0.0,
        ritz_values=(),
        products=products,
        status=status,
    )


def _finite(values: Tensor, what: str) -> FloatArray:
    array: FloatArray = values.detach().double().numpy()
    if not np.isfinite(array).all():
        raise NonFiniteError(f"{what} is not finite: check the model's weights and the data")
    return array
