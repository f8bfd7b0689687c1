"""The Krylov solver against the dual of the cubic problem, solved densely.

The dual's value is a certificate of its own: no step can lie below it, and a step that reaches it
is a global minimiser.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedunlearn.solvers.cubic import KrylovCubicSolver
from fedunlearn.solvers.dual import maximise_dual
from fedunlearn.solvers.solution import Status
from tests.cases import OPERATORS, CubicCase, FloatArray
from tests.laws import laws

EXACT = 1e-8
BACKWARD = 1e-11

DIMENSIONS = st.one_of(st.integers(1, 8), st.integers(1, 40), st.integers(1, 200))
MAGNITUDES = st.integers(-300, 300).map(lambda exponent: 10.0 ** (exponent / 100.0))


def _quadratic(case: CubicCase, step: FloatArray) -> float:
    return float(case.gradient.numpy() @ step + 0.5 * step @ case.matrix.numpy() @ step)


@laws(1000)
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
    best = maximise_dual(matrix, gradient, weight)
    eigenvalues = np.linalg.eigvalsh(matrix)
    spread = float(np.abs(eigenvalues).max())
    length = float(np.linalg.norm(step))
    quadratic = _quadratic(case, step)
    model = quadratic + weight / 6.0 * length**3

    assert abs(model - best.value) <= EXACT * abs(best.value)
    assert math.isclose(found.predicted, model, rel_tol=EXACT)
    assert math.isclose(found.quadratic, quadratic, rel_tol=EXACT)

    assert found.damping == pytest.approx(0.5 * weight * length, rel=1e-9)
    assert found.damping == pytest.approx(best.damping, rel=1e-6)
    assert eigenvalues[0] + found.damping >= -1e-12 * spread
    residual = matrix @ step + found.damping * step + gradient
    size = np.linalg.norm(gradient) + (spread + found.damping) * length
    assert np.linalg.norm(residual) <= BACKWARD * size

    resting = not gradient.any() and family.positive_semidefinite
    allowed = {Status.STATIONARY} if resting else {Status.CONVERGED, Status.HARD_CASE}
    assert found.status in allowed
    assert found.products <= dimension
