"""The Krylov solver against the dual of the cubic problem, solved densely.

For every sigma >= 0 with H + sigma I positive definite,
    D(sigma) = -1/2 g'(H + sigma I)^-1 g - (2/3) sigma^3 / M^2 <= m(s) for all s,
and the largest D equals the smallest m. So the reference is a certificate of its own: no step can
lie below it, and a step that reaches it is a global minimiser.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedunlearn.solvers.cubic import KrylovCubicSolver, Status
from tests.cases import OPERATORS, CubicCase, Vector

EXACT = 1e-8
BACKWARD = 1e-11

DIMENSIONS = st.one_of(st.integers(1, 8), st.integers(1, 40), st.integers(1, 200))
MAGNITUDES = st.integers(-300, 300).map(lambda exponent: 10.0 ** (exponent / 100.0))


@dataclass(frozen=True)
class _Dual:
    value: float
    damping: float
    spread: float  # the largest absolute eigenvalue
    leftmost: float


def _maximise_dual(matrix: Vector, gradient: Vector, weight: float) -> _Dual:
    """Bisect D'(sigma) = 1/2 sum c^2 / (lambda + sigma)^2 - 2 sigma^2 / M^2 for its sign change.

    The unknown is the logarithm of the distance to the leftmost admissible sigma. Where D falls
    from there on, even without the directions at the pole, that end is the maximiser: the hard
    case.
    """
    eigenvalues, basis = np.linalg.eigh(matrix)
    squares = (basis.T @ gradient) ** 2
    pole = max(0.0, -float(eigenvalues[0]))
    gaps = np.maximum(eigenvalues + pole, 0.0)
    moving = squares > 0.0
    gaps, squares = gaps[moving], squares[moving]

    def rises(distance: float) -> bool:
        with np.errstate(divide="ignore", over="ignore"):
            slope = 0.5 * np.sum(squares / (gaps + distance) ** 2)
        return bool(slope > 2.0 * (pole + distance) ** 2 / weight**2)

    def value(distance: float) -> float:
        damping = pole + distance
        shares = squares / (gaps + distance) if squares.size else np.zeros(1)
        return -0.5 * float(np.sum(shares)) - 2.0 / 3.0 * damping**3 / weight**2

    low, high = -300.0, 30.0
    if squares.size == 0 or not rises(10.0**low):
        distance = 0.0
    else:
        while high - low > 1e-14:
            middle = 0.5 * (low + high)
            if middle in (low, high):
                break
            low, high = (middle, high) if rises(10.0**middle) else (low, middle)
        distance = 10.0**high
    return _Dual(
        value(distance), pole + distance, float(np.abs(eigenvalues).max()), float(eigenvalues[0])
    )


def _quadratic(case: CubicCase, step: Vector) -> float:
    return float(case.gradient.numpy() @ step + 0.5 * step @ case.matrix.numpy() @ step)


@settings(max_examples=1000, derandomize=True, deadline=None, database=None)
@given(
    kind=st.sampled_from(list(OPERATORS)),
    seed=st.integers(0, 2**20),
    dimension=DIMENSIONS,
    weight=MAGNITUDES,
    scale=MAGNITUDES,
    promised=st.booleans(),
)
@example(kind="easy", seed=0, dimension=200, weight=1e3, scale=1e-3, promised=True)
@example(kind="singular", seed=1, dimension=200, weight=1e-3, scale=1e3, promised=False)
@example(kind="hard", seed=2, dimension=200, weight=1e-3, scale=1e-3, promised=False)
@example(kind="nearly hard", seed=3, dimension=200, weight=1e3, scale=1e3, promised=False)
def test_step_is_the_global_minimiser(
    kind: str, seed: int, dimension: int, weight: float, scale: float, promised: bool
) -> None:
    family = OPERATORS[kind]
    case = family.build(seed, dimension, weight=weight, scale=scale)
    semidefinite = promised and family.positive_semidefinite
    found = KrylovCubicSolver().solve(
        case.subproblem(positive_semidefinite=semidefinite), rtol=0.0, max_products=dimension
    )
    matrix, gradient, step = case.matrix.numpy(), case.gradient.numpy(), found.step.numpy()
    best = _maximise_dual(matrix, gradient, weight)
    length = float(np.linalg.norm(step))
    quadratic = _quadratic(case, step)
    model = quadratic + weight / 6.0 * length**3

    assert abs(model - best.value) <= EXACT * abs(best.value)
    assert math.isclose(found.predicted, model, rel_tol=EXACT)
    assert math.isclose(found.quadratic, quadratic, rel_tol=EXACT)

    assert found.damping == pytest.approx(0.5 * weight * length, rel=1e-9)
    assert found.damping == pytest.approx(best.damping, rel=1e-6)
    assert best.leftmost + found.damping >= -1e-12 * best.spread
    residual = matrix @ step + found.damping * step + gradient
    size = np.linalg.norm(gradient) + (best.spread + found.damping) * length
    assert np.linalg.norm(residual) <= BACKWARD * size

    resting = not gradient.any() and best.leftmost >= 0.0
    allowed = {Status.STATIONARY} if resting else {Status.CONVERGED, Status.HARD_CASE}
    assert found.status in allowed
    assert found.products <= dimension
