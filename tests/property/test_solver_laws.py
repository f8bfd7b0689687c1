"""What every cubic solver owes to the problem's symmetries, and what descent owes to its budget."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.solvers.cubic import CubicStep
from fedunlearn.solvers.descent import DescentCubicSolver, minimise_on_line
from fedunlearn.solvers.dual import DualCubicSolver, maximise_dual
from fedunlearn.solvers.solution import Status
from tests.cases import OPERATORS, SOLVERS, CubicCase
from tests.laws import laws

TAME = [kind for kind in OPERATORS if not kind.startswith("wildly")]
AT_REST = ["zero gradient, definite", "zero gradient, singular"]
ONE_SIDED = ["easy", "indefinite", "singular", "repeated leftmost"]  # the minimiser is unique

law = laws(150)
seeds = st.integers(0, 2**20)
dimensions = st.integers(1, 30)
factors = st.integers(-100, 100).map(lambda exponent: 2.0**exponent)


def _solve(name: str, case: CubicCase) -> CubicStep:
    solver = SOLVERS[name]
    budget = solver.budget(case.gradient.numel())
    return solver.make().solve(case.subproblem(), rtol=solver.rtol, max_products=budget)


@law
@given(
    name=st.sampled_from(list(SOLVERS)),
    kind=st.sampled_from(TAME),
    seed=seeds,
    dimension=dimensions,
    curvature=factors,
    length=factors,
)
def test_units_do_not_matter(
    name: str, kind: str, seed: int, dimension: int, curvature: float, length: float
) -> None:
    """With H times a, g times a b and M times a / b, the step is b times as long."""
    case = OPERATORS[kind].build(seed, dimension)
    rescaled = CubicCase(
        case.matrix * curvature,
        case.gradient * curvature * length,
        case.weight * curvature / length,
    )
    found, other = _solve(name, case), _solve(name, rescaled)
    value = max(1e-9, 2.0 * SOLVERS[name].value)
    expected = found.predicted * curvature * length**2
    assert other.predicted == pytest.approx(expected, rel=value, abs=0.0)
    tolerance = 2.0 * SOLVERS[name].damping
    assert other.damping == pytest.approx(found.damping * curvature, rel=tolerance, abs=0.0)
    if kind in ONE_SIDED:
        difference = (other.step / length - found.step).norm()
        assert difference <= 1e3 * tolerance * found.step.norm()


@law
@given(
    name=st.sampled_from(list(SOLVERS)),
    kind=st.sampled_from(AT_REST),
    seed=seeds,
    dimension=dimensions,
    curvature=st.integers(-300, 300).map(lambda exponent: 10.0 ** (exponent / 10.0)),
    weight=st.integers(-300, 300).map(lambda exponent: 10.0 ** (exponent / 10.0)),
)
def test_nothing_falls_from_a_minimum(
    name: str, kind: str, seed: int, dimension: int, curvature: float, weight: float
) -> None:
    """Without a gradient and without negative curvature zero is the minimum, in all units."""
    case = OPERATORS[kind].build(seed, dimension, weight=weight, scale=curvature)
    found = _solve(name, case)
    assert found.predicted == 0.0
    assert not found.step.any()
    assert found.status is Status.STATIONARY


@pytest.mark.parametrize("factor", [1.0, 8192.0, 3.0e-7, 3.0e7])
@pytest.mark.parametrize("name", SOLVERS)
def test_a_search_that_came_back_to_zero_shows_no_negative_curvature(
    name: str, factor: float
) -> None:
    """Conjugate directions get there to rounding; what is left of their image tells nothing."""
    for seed in range(30):
        case = OPERATORS["zero gradient, definite"].build(seed, 13)
        scaled = replace(case, matrix=case.matrix * factor, weight=case.weight * factor)
        assert _solve(name, scaled).predicted == 0.0


@law
@given(kind=st.sampled_from(list(OPERATORS)), seed=seeds, dimension=dimensions)
def test_the_dual_solver_knows_no_axes(kind: str, seed: int, dimension: int) -> None:
    case = OPERATORS[kind].build(seed, dimension)
    generator = np.random.default_rng(seed)
    rotation = torch.from_numpy(np.linalg.qr(generator.standard_normal((dimension, dimension)))[0])
    turned = rotation @ case.matrix @ rotation.T
    rotated = replace(case, matrix=(turned + turned.T) / 2.0, gradient=rotation @ case.gradient)
    found, other = _solve("dual", case), _solve("dual", rotated)
    assert other.predicted == pytest.approx(found.predicted, rel=1e-9, abs=0.0)
    assert other.damping == pytest.approx(found.damping, rel=1e-9, abs=0.0)
    if kind in ONE_SIDED:
        torch.testing.assert_close(other.step, rotation @ found.step, rtol=1e-6, atol=1e-6)


@law
@given(
    kind=st.sampled_from(list(OPERATORS)),
    seed=seeds,
    dimension=dimensions,
    weight=st.integers(-300, 300).map(lambda exponent: 10.0 ** (exponent / 100.0)),
)
def test_the_dual_value_is_reached_and_never_undercut(
    kind: str, seed: int, dimension: int, weight: float
) -> None:
    case = OPERATORS[kind].build(seed, dimension, weight=weight)
    bound = maximise_dual(case.matrix.numpy(), case.gradient.numpy(), weight)
    found = DualCubicSolver().solve(case.subproblem(), rtol=0.0, max_products=dimension)
    assert found.predicted == pytest.approx(bound.value, rel=1e-10, abs=0.0)
    generator = np.random.default_rng(seed)
    for _ in range(20):
        step = bound.step + 0.1 * np.linalg.norm(bound.step) * generator.standard_normal(dimension)
        image = case.matrix.numpy() @ step
        model = case.gradient.numpy() @ step + 0.5 * step @ image
        model += weight / 6.0 * np.linalg.norm(step) ** 3
        assert model >= bound.value - 1e-10 * abs(bound.value)


@law
@given(
    kind=st.sampled_from(list(OPERATORS)),
    seed=seeds,
    dimension=dimensions,
    conjugate=st.booleans(),
    weight=st.sampled_from([0.01, 1.0, 100.0]),
)
def test_more_products_never_leave_descent_higher(
    kind: str, seed: int, dimension: int, conjugate: bool, weight: float
) -> None:
    case = OPERATORS[kind].build(seed, dimension, weight=weight)
    best = maximise_dual(case.matrix.numpy(), case.gradient.numpy(), weight).value
    solver = DescentCubicSolver(conjugate=conjugate, seed=seed)
    before = 0.0
    for budget in (1, 2, 3, 5, 8, 13, 21, 34):
        found = solver.solve(case.subproblem(), rtol=1e-8, max_products=budget)
        assert found.products <= budget
        assert found.predicted <= before + 1e-13 * abs(before)
        assert found.predicted >= best - 1e-12 * abs(best)
        before = found.predicted


@laws(500)
@given(
    slope=st.floats(-1e12, 1e12),
    curvature=st.floats(-1e12, 1e12),
    along=st.floats(-1e6, 1e6),
    across=st.floats(0.0, 1e6),
    weight=st.integers(-12, 12).map(lambda exponent: 10.0**exponent),
)
def test_the_line_search_finds_the_lowest_point(
    slope: float, curvature: float, along: float, across: float, weight: float
) -> None:
    found = minimise_on_line(slope, curvature, along, across, weight)
    assert found is not None

    def change(distance: float) -> tuple[float, float]:
        """Return the change along the line, and the size of its terms."""
        there, here = math.hypot(across, along + distance), math.hypot(across, along)
        terms = (
            slope * distance,
            0.5 * curvature * distance**2,
            weight / 6.0 * there**3,
            -weight / 6.0 * here**3,
        )
        return math.fsum(terms), sum(map(abs, terms))

    lowest, size = change(found)
    reach = abs(found) + abs(along) + across + 1.0
    for sign in (-1.0, 1.0):
        for magnitude in np.geomspace(1e-12, 1e3, 60):
            other, other_size = change(sign * magnitude * reach)
            assert lowest <= other + 1e-12 * max(size, other_size)
        mirrored, other_size = change(-2.0 * along - found)
        assert lowest <= mirrored + 1e-12 * max(size, other_size)


@pytest.mark.parametrize("scale", [1e-200, 1e-100, 1.0, 1e100, 1e200])
@pytest.mark.parametrize("weight", [0.0, 1e-200, 1.0, 1e200])
@pytest.mark.parametrize("slope", [0.0, -1e-200, 1.0, -1e200])
def test_the_line_search_does_not_overflow(scale: float, weight: float, slope: float) -> None:
    for curvature in (-scale, 0.0, scale):
        found = minimise_on_line(slope, curvature, 1e-3, 1e3, weight)
        assert found is None or math.isfinite(found)
