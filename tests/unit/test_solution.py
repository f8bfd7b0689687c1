"""What a solve tells can be written down, whatever came of it."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from fedunlearn.solvers.cubic import CubicStep, solve_reduced
from fedunlearn.solvers.lanczos import lanczos
from fedunlearn.solvers.linear_operator import DenseOperator
from fedunlearn.solvers.solution import Solution, Status
from fedunlearn.unlearning.stochastic_cubic_newton import status_of
from tests.cases import OPERATORS, SOLVERS, CubicCase, SolverCase

each_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
FINITE = {"weight", "damping", "predicted", "quadratic", "residual"}
ALWAYS = {"ritz_values", "products", "status", "remedy"}


def _written(solution: Solution) -> dict[str, Any]:
    told = solution.as_dict()
    written: dict[str, Any] = json.loads(json.dumps(told, allow_nan=False))
    assert written == told
    assert written["status"] == solution.status.name.lower()
    assert written["remedy"] == solution.status.value
    assert written["ritz_values"] == list(solution.ritz_values)
    assert written["products"] == solution.products
    for name in FINITE & set(written):
        assert written[name] == getattr(solution, name)
    left_out = (FINITE | ALWAYS) - set(written)
    assert set(written) <= FINITE | ALWAYS
    assert all(not math.isfinite(getattr(solution, name)) for name in left_out)
    return written


@each_solver
@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("budget", [2, 1000])
def test_every_solution_is_written_down(solver: SolverCase, kind: str, budget: int) -> None:
    case = OPERATORS[kind].build(2, 9)
    found = solver.make().solve(case.subproblem(), rtol=solver.rtol, max_products=budget)
    assert set(_written(found)) == FINITE | ALWAYS


@each_solver
def test_what_is_infinite_is_left_out(solver: SolverCase) -> None:
    eigenvalues, gradient = torch.tensor([[-1.0, 2.0], [1.0, 1.0]], dtype=torch.float64)
    case = CubicCase(torch.diag(eigenvalues), gradient, 0.0)
    found = solver.make().solve(case.subproblem(), rtol=solver.rtol, max_products=100)
    assert found.status is Status.UNBOUNDED
    assert found.predicted == -math.inf
    written = _written(found)
    assert set(written) == (FINITE | ALWAYS) - {"predicted", "quadratic"}
    assert written["status"] == "unbounded"
    assert "positive weight" in written["remedy"]


def test_a_step_in_coordinates_tells_the_same() -> None:
    case = OPERATORS["easy"].build(2, 9)
    *_, basis = lanczos(DenseOperator(case.matrix), case.gradient, 4)
    written = _written(solve_reduced(basis, 0.3, rtol=1e-12))
    assert written["status"] == "budget_spent"
    assert written["weight"] == 0.3
    assert len(written["ritz_values"]) == written["products"] == 4


def step_that(status: Status, length: float) -> CubicStep:
    return CubicStep(
        step=torch.full((2,), length),
        weight=1.0,
        damping=0.0,
        predicted=-length,
        quadratic=-length,
        residual=0.0,
        ritz_values=(),
        products=1,
        status=status,
    )


def test_no_status_says_that_nothing_was_done_once_a_step_was_taken() -> None:
    assert "nothing" not in Status.CONVERGED.value
    taken, rest = step_that(Status.CONVERGED, 1.0), step_that(Status.STATIONARY, 0.0)
    assert status_of([taken, taken, rest]) == "converged: after 2 steps the gradient is zero"
    assert status_of([rest]) == Status.STATIONARY.value
    assert status_of([taken]) == Status.CONVERGED.value
