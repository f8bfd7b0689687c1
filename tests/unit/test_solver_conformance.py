"""Every solver on every kind of operator, against the eigenbasis."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import torch

from fedunlearn.errors import NonFiniteError
from fedunlearn.solvers.cubic import CubicStep, CubicSubproblem
from fedunlearn.solvers.descent import DescentCubicSolver
from fedunlearn.solvers.dual import LARGEST_DIMENSION, DualCubicSolver
from fedunlearn.solvers.linear_operator import DenseOperator
from fedunlearn.solvers.solution import Status
from tests.cases import OPERATORS, SOLVERS, CountingOperator, CubicCase, SolverCase

pytestmark = pytest.mark.slow

AT_REST = [kind for kind in OPERATORS if kind.startswith("zero gradient")]

each_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
each_kind = pytest.mark.parametrize("kind", OPERATORS)


@dataclass(frozen=True)
class _Optimum:
    value: float
    damping: float
    norm: float
    leftmost: float


def _optimum(case: CubicCase) -> _Optimum:
    """Bisect ||s(sigma)|| = 2 sigma / M in the eigenbasis, for the distance to the pole."""
    eigenvalues, basis = np.linalg.eigh(case.matrix.numpy())
    gradient = basis.T @ case.gradient.numpy()
    pole = max(0.0, -float(eigenvalues[0]))
    rounding = 8.0 * len(eigenvalues) * np.finfo(float).eps * float(np.abs(eigenvalues).max())
    if not gradient.any() and pole <= rounding:
        pole = 0.0
    gaps = np.maximum(eigenvalues + pole, 0.0)
    moving = gradient != 0.0
    gaps, gradient = gaps[moving], gradient[moving]

    def short(distance: float) -> bool:
        with np.errstate(over="ignore"):
            length = float(np.linalg.norm(gradient / (gaps + distance)))
        return length <= 2.0 * (pole + distance) / case.weight

    low, high = 1e-250, 1e30
    for _ in range(200):
        middle = math.sqrt(low) * math.sqrt(high)
        low, high = (low, middle) if short(middle) else (middle, high)
    distance = 0.0 if short(1e-250) else high
    damping = pole + distance
    shares = float(np.sum(gradient**2 / (gaps + distance))) if gradient.size else 0.0
    value = -0.5 * shares - 2.0 / 3.0 * damping**3 / case.weight**2
    return _Optimum(value, damping, float(np.abs(eigenvalues).max()), float(eigenvalues[0]))


def _solve(
    solver: SolverCase,
    case: CubicCase,
    *,
    promised: bool = False,
    budget: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> CubicStep:
    """Solve, and check what holds whatever the problem and the budget."""
    inner = DenseOperator(case.matrix.to(dtype), positive_semidefinite=promised)
    operator = CountingOperator(inner)
    problem = CubicSubproblem(operator, case.gradient.to(dtype), case.weight)
    limit = solver.budget(operator.dimension) if budget is None else budget
    found = solver.make().solve(problem, rtol=solver.rtol, max_products=limit)

    assert found.products == operator.vectors <= limit
    assert found.step.shape == case.gradient.shape
    assert found.step.dtype == dtype
    assert found.weight == case.weight
    assert len(found.ritz_values) in (0, found.products)
    assert list(found.ritz_values) == sorted(found.ritz_values)
    step, gradient, matrix = (
        tensor.double().numpy()
        for tensor in (found.step, case.gradient.to(dtype), case.matrix.to(dtype))
    )
    length = float(np.linalg.norm(step))
    eps = torch.finfo(dtype).eps
    reach = (
        float(np.linalg.norm(gradient)) * length
        + (float(np.linalg.norm(matrix)) + case.weight * length) * length**2
    )
    quadratic = float(gradient @ step + 0.5 * step @ matrix @ step)
    assert found.quadratic == pytest.approx(quadratic, rel=0.0, abs=100 * eps * reach)
    model = quadratic + case.weight / 6.0 * length**3
    assert found.predicted == pytest.approx(model, rel=0.0, abs=100 * eps * reach)
    assert found.predicted <= 0.0
    assert found.damping == pytest.approx(0.5 * case.weight * length, rel=100 * eps)
    assert (found.predicted == 0.0) == (not found.step.any())

    norm = float(np.linalg.norm(gradient))
    residual = float(np.linalg.norm(matrix @ step + found.damping * step + gradient))
    if norm == 0.0:
        assert found.residual == 0.0
    else:
        spread = (float(np.linalg.norm(matrix)) + found.damping) * length
        assert found.residual * norm == pytest.approx(residual, rel=1e-3, abs=100 * eps * spread)
    return found


@each_solver
@each_kind
@pytest.mark.parametrize("dimension", [1, 2, 9, 40])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_step_is_the_global_minimiser(
    solver: SolverCase, kind: str, dimension: int, seed: int
) -> None:
    family = OPERATORS[kind]
    case = family.build(seed, dimension, weight=10.0 ** (seed - 1))
    promised = family.positive_semidefinite and seed != 0
    found = _solve(solver, case, promised=promised)
    best = _optimum(case)
    value = solver.looser.get(kind, solver.value)
    assert abs(found.predicted - best.value) <= value * abs(best.value)

    if kind in AT_REST and family.positive_semidefinite:
        assert found.status is Status.STATIONARY
        assert found.products == 0 or not promised
    elif kind in solver.looser and found.status is Status.BUDGET_SPENT:
        return
    elif kind in AT_REST:
        assert found.status is Status.HARD_CASE
    else:
        assert found.status in (Status.CONVERGED, Status.HARD_CASE)
        if family.positive_semidefinite:
            assert found.status is Status.CONVERGED

    assert best.leftmost + found.damping >= -solver.damping * best.norm
    if kind not in solver.looser:
        assert found.damping == pytest.approx(best.damping, rel=solver.damping)
    step, matrix, gradient = found.step.numpy(), case.matrix.numpy(), case.gradient.numpy()
    residual = matrix @ step + found.damping * step + gradient
    reach = np.linalg.norm(gradient) + (best.norm + found.damping) * np.linalg.norm(step)
    assert np.linalg.norm(residual) <= solver.residual * reach


@each_solver
@each_kind
@pytest.mark.parametrize("budget", [1, 3])
def test_a_small_budget_is_a_status(solver: SolverCase, kind: str, budget: int) -> None:
    case = OPERATORS[kind].build(4, 12)
    found = _solve(solver, case, budget=budget)
    assert found.status is Status.BUDGET_SPENT
    if isinstance(solver.make(), DualCubicSolver):
        assert found.products == 0
        assert not found.step.any()
    else:
        assert found.products == budget
        assert kind in AT_REST or found.predicted < 0.0


@each_solver
@each_kind
def test_single_precision_is_worked_in(solver: SolverCase, kind: str) -> None:
    case = OPERATORS[kind].build(6, 30)
    solver = replace(solver, rtol=max(solver.rtol, 1e-5) if solver.rtol else 0.0)
    found = _solve(solver, case, dtype=torch.float32)
    rounded = CubicCase(case.matrix.float().double(), case.gradient.float().double(), case.weight)
    best = _optimum(rounded)
    value = max(1e-4, solver.looser.get(kind, 0.0))
    assert found.predicted == pytest.approx(best.value, rel=value, abs=1e-20)


@each_solver
@each_kind
def test_solving_again_gives_the_same_bits(solver: SolverCase, kind: str) -> None:
    case = OPERATORS[kind].build(7, 20)
    first, second = _solve(solver, case), _solve(solver, case)
    assert torch.equal(first.step, second.step)
    for name in (field.name for field in fields(first) if field.name != "step"):
        assert getattr(first, name) == getattr(second, name)


@each_solver
def test_weight_zero_is_the_newton_step(solver: SolverCase) -> None:
    case = OPERATORS["easy"].build(3, 30, weight=0.0)
    found = _solve(solver, case)
    newton = torch.linalg.solve(case.matrix, -case.gradient)
    assert (found.step - newton).norm() <= 10 * max(solver.rtol, 1e-14) * newton.norm()
    assert found.damping == 0.0
    assert found.status is Status.CONVERGED


UNBOUNDED = {
    "negative curvature": ([-1.0, 2.0, 3.0], [1.0, 1.0, 1.0]),
    "negative curvature that the gradient misses": ([-1.0, 2.0, 3.0], [0.0, 1.0, 1.0]),
    "flat along the gradient": ([0.0, 2.0, 3.0], [1.0, 1.0, 1.0]),
    "a saddle at rest": ([-1.0, 2.0, 3.0], [0.0, 0.0, 0.0]),
}


@each_solver
@pytest.mark.parametrize("problem", UNBOUNDED.values(), ids=UNBOUNDED)
def test_weight_zero_may_be_unbounded(
    solver: SolverCase, problem: tuple[list[float], list[float]]
) -> None:
    eigenvalues, gradient = (torch.tensor(values, dtype=torch.float64) for values in problem)
    case = CubicCase(torch.diag(eigenvalues), gradient, 0.0)
    found = solver.make().solve(case.subproblem(), rtol=solver.rtol, max_products=100)
    if solver is SOLVERS["gradient descent"] and eigenvalues[0] == 0.0:
        # Its steps grow for ever, but no gradient is ever the flat direction itself.
        assert found.status is Status.BUDGET_SPENT
        return
    assert found.status is Status.UNBOUNDED
    assert found.predicted == found.quadratic == -math.inf
    assert found.residual == 1.0 or not gradient.any()
    assert not found.step.any()


@each_solver
def test_weight_zero_at_a_flat_minimum_takes_the_shortest_step(solver: SolverCase) -> None:
    eigenvalues, gradient = torch.tensor([[0.0, 2.0, 4.0], [0.0, 1.0, 2.0]], dtype=torch.float64)
    found = _solve(solver, CubicCase(torch.diag(eigenvalues), gradient, 0.0))
    expected = torch.tensor([0.0, -0.5, -0.5], dtype=torch.float64)
    torch.testing.assert_close(found.step, expected, rtol=1e-6, atol=1e-12)


@each_solver
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(solver: SolverCase, bad: float) -> None:
    case = OPERATORS["indefinite"].build(1, 6)
    gradient, matrix = case.gradient.clone(), case.matrix.clone()
    gradient[2], matrix[3, 3] = bad, bad
    for spoilt in (replace(case, gradient=gradient), replace(case, matrix=matrix)):
        with pytest.raises(NonFiniteError, match="not finite"):
            solver.make().solve(spoilt.subproblem(), rtol=0.0, max_products=6)


@each_solver
def test_misuse_is_refused(solver: SolverCase) -> None:
    case = OPERATORS["easy"].build(1, 6)
    with pytest.raises(ValueError, match="at least 1"):
        solver.make().solve(case.subproblem(), rtol=0.0, max_products=0)
    with pytest.raises(ValueError, match="must not be negative"):
        negative = replace(case, weight=-1.0).subproblem()
        solver.make().solve(negative, rtol=0.0, max_products=6)


def test_the_dual_solver_refuses_what_is_no_small_problem() -> None:
    large = torch.zeros(1, 1).expand(LARGEST_DIMENSION + 1, LARGEST_DIMENSION + 1)
    problem = CubicSubproblem(DenseOperator(large), large[0], 1.0)
    with pytest.raises(ValueError, match="use the Krylov solver"):
        DualCubicSolver().solve(problem, rtol=0.0, max_products=10_000)


@pytest.mark.parametrize("rtol", [1e-2, 1e-4])
@pytest.mark.parametrize("seed", range(5))
def test_descent_with_a_loose_tolerance_does_not_stop_at_a_saddle(rtol: float, seed: int) -> None:
    """Where the slope vanishes first, m is about a tenth above its minimum."""
    case = OPERATORS["hard"].build(seed, 30)
    found = DescentCubicSolver().solve(case.subproblem(), rtol=rtol, max_products=200)
    assert found.status is Status.HARD_CASE
    assert found.predicted == pytest.approx(_optimum(case).value, rel=rtol**1.5)


def test_descent_leaves_a_minimum_that_is_not_global() -> None:
    """Its line searches alone end in one here: the negative curvature is but weak."""
    overlooked, reached = [], []
    for seed in range(12):
        case = OPERATORS["wildly scaled, indefinite"].build(seed, 7)
        best = _optimum(case).value
        trusting = case.subproblem(positive_semidefinite=True)  # a broken promise: no search
        for problem, excess in ((trusting, overlooked), (case.subproblem(), reached)):
            found = DescentCubicSolver().solve(problem, rtol=1e-8, max_products=2000)
            excess.append((found.predicted - best) / abs(best))
    assert max(overlooked) > 1e-3
    assert max(reached) < 1e-10


def test_conjugate_directions_need_a_fraction_of_the_products() -> None:
    case = OPERATORS["wildly scaled"].build(3, 30)
    problem = case.subproblem(positive_semidefinite=True)
    conjugate, plain = (
        DescentCubicSolver(conjugate=chosen).solve(problem, rtol=1e-6, max_products=5000)
        for chosen in (True, False)
    )
    assert conjugate.status is plain.status is Status.CONVERGED
    assert 4 * conjugate.products < plain.products
