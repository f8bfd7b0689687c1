from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from fedunlearn.solvers.cubic import CubicSubproblem, KrylovCubicSolver, solve_in_basis
from fedunlearn.solvers.lanczos import KrylovBasis, lanczos
from fedunlearn.solvers.linear_operator import DenseOperator
from fedunlearn.solvers.secular import minimise_cubic
from fedunlearn.solvers.solution import Status
from tests.cases import OPERATORS, CountingOperator, CubicCase

SOLVER = KrylovCubicSolver()


def _diagonal(eigenvalues: list[float], gradient: list[float], weight: float) -> CubicSubproblem:
    matrix = torch.diag(torch.tensor(eigenvalues, dtype=torch.float64))
    return CubicSubproblem(
        DenseOperator(matrix), torch.tensor(gradient, dtype=torch.float64), weight
    )


def _relative_residual(case: CubicCase, step: Tensor, damping: float) -> float:
    residual = case.matrix @ step + damping * step + case.gradient
    return float(residual.norm() / case.gradient.norm())


def _largest_basis(case: CubicCase, size: int) -> KrylovBasis:
    *_, basis = lanczos(DenseOperator(case.matrix), case.gradient, size)
    return basis


STATUSES = {
    "definite": (_diagonal([1.0, 2.0, 3.0], [1.0, 1.0, 1.0], 1.0), 3, Status.CONVERGED),
    "gradient misses the leftmost": (
        _diagonal([-1.0, 2.0, 3.0], [0.0, 0.1, 0.1], 1.0),
        3,
        Status.HARD_CASE,
    ),
    "saddle at rest": (_diagonal([-1.0, 2.0, 3.0], [0.0, 0.0, 0.0], 1.0), 3, Status.HARD_CASE),
    "minimum at rest": (_diagonal([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], 1.0), 3, Status.STATIONARY),
    "minimum at rest, weight 0": (
        _diagonal([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], 0.0),
        3,
        Status.STATIONARY,
    ),
    "two products of three": (
        _diagonal([1.0, 2.0, 3.0], [1.0, 1.0, 1.0], 1.0),
        2,
        Status.BUDGET_SPENT,
    ),
    "saddle at rest, two products of three": (
        _diagonal([-1.0, -2.0, -3.0], [0.0, 0.0, 0.0], 1.0),
        2,
        Status.BUDGET_SPENT,
    ),
    "negative curvature, weight 0": (
        _diagonal([-1.0, 2.0, 3.0], [1.0, 1.0, 1.0], 0.0),
        3,
        Status.UNBOUNDED,
    ),
    "flat along the gradient, weight 0": (
        _diagonal([0.0, 2.0, 3.0], [1.0, 1.0, 1.0], 0.0),
        3,
        Status.UNBOUNDED,
    ),
}


@pytest.mark.parametrize("problem, products, status", STATUSES.values(), ids=STATUSES)
def test_status_says_how_the_solve_ended(
    problem: CubicSubproblem, products: int, status: Status
) -> None:
    found = SOLVER.solve(problem, rtol=0.0, max_products=products)
    assert found.status is status
    assert found.products == products
    if status is Status.UNBOUNDED:
        assert found.predicted == -math.inf
        assert found.residual == 1.0
        assert not found.step.any()


def test_every_status_is_reached_and_brings_a_remedy() -> None:
    assert {status for _, _, status in STATUSES.values()} == set(Status)
    for status in Status:
        _, remedy = status.value.split(":", 1)
        assert len(remedy.split()) >= 3


def test_weight_zero_is_the_newton_step() -> None:
    case = OPERATORS["easy"].build(3, 30, weight=0.0)
    found = SOLVER.solve(case.subproblem(), rtol=0.0, max_products=30)
    newton = torch.linalg.solve(case.matrix, -case.gradient)
    torch.testing.assert_close(found.step, newton, rtol=1e-11, atol=0.0)
    assert found.damping == 0.0
    assert found.predicted == found.quadratic
    assert found.predicted == pytest.approx(0.5 * float(case.gradient @ newton), rel=1e-12)
    assert found.status is Status.CONVERGED


def test_weight_zero_is_the_shortest_newton_step_where_the_flat_part_is_not_pushed() -> None:
    found = SOLVER.solve(_diagonal([0.0, 2.0, 4.0], [0.0, 1.0, 2.0], 0.0), rtol=0.0, max_products=3)
    torch.testing.assert_close(found.step, torch.tensor([0.0, -0.5, -0.5], dtype=torch.float64))


def test_hard_case_ends_on_the_boundary() -> None:
    case = OPERATORS["hard"].build(5, 40, weight=0.3)
    found = SOLVER.solve(case.subproblem(), rtol=0.0, max_products=40)
    assert found.damping == pytest.approx(1.0, rel=1e-12)  # minus the leftmost eigenvalue
    assert float(found.step.norm()) == pytest.approx(2.0 / 0.3, rel=1e-10)
    leftmost = torch.linalg.eigh(case.matrix).eigenvectors[:, 0]
    # The step at the pole has 0.6 of the radius; Pythagoras leaves 0.8 for the eigenvector.
    assert abs(float(found.step @ leftmost)) == pytest.approx(0.8 * 2.0 / 0.3, rel=1e-8)


@pytest.mark.parametrize("weight", [-1.0, -1e-300])
def test_negative_weight_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        SOLVER.solve(_diagonal([1.0, 2.0], [1.0, 1.0], weight), rtol=0.0, max_products=2)


def test_a_budget_without_products_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        SOLVER.solve(_diagonal([1.0, 2.0], [1.0, 1.0], 1.0), rtol=0.0, max_products=0)


def test_absolute_ritz_values_bound_the_step() -> None:
    case = OPERATORS["indefinite"].build(7, 25, weight=1e-3)
    basis = _largest_basis(case, 25)
    plain = solve_in_basis(basis, 1e-3)
    found = solve_in_basis(basis, 1e-3, absolute=True)

    eigenvalues, vectors = torch.linalg.eigh(case.matrix)
    absolute = (vectors * eigenvalues.abs()) @ vectors.T
    residual = absolute @ found.step + found.damping * found.step + case.gradient
    assert float(residual.norm()) <= 1e-10 * float(case.gradient.norm())
    assert found.damping == pytest.approx(0.5e-3 * float(found.step.norm()), rel=1e-10)
    assert found.quadratic == pytest.approx(
        float(case.gradient @ found.step + 0.5 * found.step @ absolute @ found.step), rel=1e-10
    )
    np.testing.assert_allclose(
        found.ritz_values, np.sort(eigenvalues.abs().numpy()), rtol=0.0, atol=1e-13
    )
    bound = float(case.gradient.norm() / eigenvalues.abs().min())
    assert float(found.step.norm()) <= bound < 0.1 * float(plain.step.norm())


@pytest.mark.parametrize("rtol", [1e-2, 1e-5, 1e-8])
@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_early_stop_meets_the_tolerance_against_the_true_residual(
    rtol: float, weight: float
) -> None:
    case = OPERATORS["easy"].build(11, 200, weight=weight)
    operator = CountingOperator(DenseOperator(case.matrix, positive_semidefinite=True))
    problem = CubicSubproblem(operator, case.gradient, weight)
    found = SOLVER.solve(problem, rtol=rtol, max_products=200)
    assert found.status is Status.CONVERGED
    assert found.products == operator.calls < 60
    true = _relative_residual(case, found.step, found.damping)
    assert true <= rtol
    assert found.residual == pytest.approx(true, rel=1e-3)
    shorter = SOLVER.solve(problem, rtol=rtol, max_products=found.products - 1)
    assert shorter.status is Status.BUDGET_SPENT
    assert rtol < shorter.residual


@pytest.mark.parametrize("kind", ["easy", "indefinite", "singular", "wildly scaled, indefinite"])
def test_a_larger_subspace_never_predicts_less(kind: str) -> None:
    case = OPERATORS[kind].build(2, 30)
    basis = _largest_basis(case, 30)
    predicted = [solve_in_basis(basis.leading(k), 1.0).predicted for k in range(1, basis.size + 1)]
    assert all(later <= earlier + 1e-12 * abs(earlier) for earlier, later in pairwise(predicted))
    assert predicted[-1] < 1.001 * predicted[0] < 0.0


@pytest.mark.timeout(20)
@pytest.mark.parametrize("seed", [327, 884, 2169, 2440, 2458])
@pytest.mark.parametrize("ulps", range(-2, 3))
def test_a_step_as_long_as_the_radius_at_the_pole_is_found(seed: int, ulps: int) -> None:
    """Between the hard case and the others no rounding may keep the search from ending."""
    generator = np.random.default_rng(seed)
    eigenvalues = np.sort(generator.uniform(-0.9, 1.0, 40))
    eigenvalues[0] = -1.0
    gradient = generator.standard_normal(40)
    gradient[generator.random(40) < 0.4] = 0.0
    gradient[0] = 0.0
    length = float(np.linalg.norm(gradient[1:] / (eigenvalues[1:] + 1.0)))
    weight = 2.0 / length * (1.0 + ulps * float(np.finfo(float).eps))
    found = minimise_cubic(eigenvalues, gradient, weight)
    assert found.damping == pytest.approx(1.0, rel=1e-12)
    assert np.linalg.norm(found.coordinates) == pytest.approx(length, rel=1e-12)


@pytest.mark.parametrize("weight", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("size", [1e-300, 1e-160, 1e-100, 1.0, 1e100])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("leftmost", [-1.0, -1e-17, 0.0, 1.0])
def test_magnitudes_far_from_one_are_solved(
    leftmost: float, scale: float, size: float, weight: float
) -> None:
    eigenvalues = scale * np.array([leftmost, 2.0, 3.0, 3.0])
    gradient = size * np.array([1e-130, 1.0, -1e-60, 1e-20])
    found = minimise_cubic(eigenvalues, gradient, weight)
    step, damping = found.coordinates, found.damping
    length = float(np.linalg.norm(step))
    assert damping == pytest.approx(0.5 * weight * length, rel=1e-10)
    assert eigenvalues[0] + damping >= 0.0
    residual = np.linalg.norm((eigenvalues + damping) * step + gradient)
    reach = float(np.linalg.norm(gradient)) + (3.0 * scale + damping) * length
    assert residual <= 1e-12 * reach + 1e-140
    assert found.value < 0.0 or size < 1e-140  # its product with the step underflows
