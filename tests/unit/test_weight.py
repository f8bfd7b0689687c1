from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from fedunlearn.solvers.cubic import lift, solve_in_basis, solve_reduced
from fedunlearn.solvers.lanczos import KrylovBasis, lanczos
from fedunlearn.solvers.linear_operator import DenseOperator
from fedunlearn.solvers.weight import (
    ACCEPTABLE,
    ENOUGH,
    RELATIVE_DAMPINGS,
    Candidate,
    WeightChoice,
    choose_weight,
    weight_of_damping,
)
from tests.cases import OPERATORS, CubicCase

SPREAD_KINDS = ["easy", "wildly scaled"]
PRODUCTS = 12


def _basis(case: CubicCase, products: int = PRODUCTS) -> KrylovBasis:
    *_, basis = lanczos(DenseOperator(case.matrix), case.gradient, products)
    return basis


def _lifted(basis: KrylovBasis, candidate: Candidate) -> Tensor:
    return lift(basis, [candidate.step])[0]


class _Objective:
    """A function with known gradient and curvature at 0, plus a term of higher order.

    Attributes:
        sizes: How many steps each call asked for.
    """

    def __init__(
        self, case: CubicCase, beyond: Callable[[Tensor], Tensor] = lambda steps: steps[:, 0] * 0.0
    ) -> None:
        self.case = case
        self.beyond = beyond
        self.sizes: list[int] = []

    def __call__(self, steps: Tensor) -> Tensor:
        self.sizes.append(steps.shape[0])
        bent = ((steps @ self.case.matrix) * steps).sum(1)
        return steps @ self.case.gradient + 0.5 * bent + self.beyond(steps)


def _cubic_term(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda steps: factor * torch.linalg.vector_norm(steps, dim=1) ** 3


def _require_consistent(choice: WeightChoice, objective: _Objective) -> None:
    assert any(candidate is choice.chosen for candidate in choice.candidates)
    assert choice.rounds == len(objective.sizes) <= 2
    assert sum(objective.sizes) == len(choice.candidates)
    assert objective.sizes[0] == len(RELATIVE_DAMPINGS)
    weights = [candidate.step.weight for candidate in choice.candidates]
    assert all(heavier > lighter > 0.0 for heavier, lighter in pairwise(weights))


@pytest.mark.parametrize("kind", SPREAD_KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_of_a_quadratic_the_shortest_step_with_enough_decrease_is_chosen(
    kind: str, seed: int
) -> None:
    case = OPERATORS[kind].build(seed, 40)
    basis, objective = _basis(case), _Objective(case)
    choice = choose_weight(basis, objective)
    _require_consistent(choice, objective)
    assert choice.rounds == 2
    assert all(candidate.gain == pytest.approx(1.0) for candidate in choice.candidates)

    best = max(-candidate.change for candidate in choice.candidates)
    assert -choice.chosen.change >= ENOUGH * best * (1.0 - 1e-3)

    fine = [
        solve_in_basis(basis, weight_of_damping(basis, 10.0 ** (exponent / 100.0)))
        for exponent in range(0, -350, -1)
    ]
    enough = [step for step in fine if -step.quadratic >= ENOUGH * best]
    shortest = min(float(step.step.norm()) for step in enough)
    length = float(_lifted(basis, choice.chosen).norm())
    assert length == pytest.approx(shortest, rel=0.02)
    longest = max(float(_lifted(basis, candidate).norm()) for candidate in choice.candidates)
    assert length < 0.98 * longest


def test_where_only_the_most_damped_step_is_acceptable_one_round_is_enough() -> None:
    case = OPERATORS["easy"].build(4, 40)
    basis = _basis(case)
    reach = float(solve_in_basis(basis, weight_of_damping(basis, 1.0)).step.norm())

    def wall(steps: Tensor) -> Tensor:
        outside: Tensor = torch.linalg.vector_norm(steps, dim=1) > 1.01 * reach
        return 1e3 * outside.double()

    objective = _Objective(case, wall)
    choice = choose_weight(basis, objective)
    _require_consistent(choice, objective)
    assert choice.rounds == 1
    assert [c.acceptable for c in choice.candidates] == [True] + [False] * 6
    assert choice.chosen is choice.candidates[0]


@pytest.mark.parametrize("kind", [*SPREAD_KINDS, "indefinite"])
@pytest.mark.parametrize("share", [0.3, 0.45, 0.6])
def test_where_the_objective_curves_more_than_the_model_no_bad_step_is_chosen(
    kind: str, share: float
) -> None:
    case = OPERATORS[kind].build(4, 40)
    basis = _basis(case)
    middle = solve_in_basis(basis, weight_of_damping(basis, 0.1))
    factor = share * abs(middle.quadratic) / float(middle.step.norm()) ** 3
    objective = _Objective(case, _cubic_term(factor))
    choice = choose_weight(basis, objective)
    _require_consistent(choice, objective)

    gains = [candidate.gain for candidate in choice.candidates]
    assert gains[0] > ACCEPTABLE[0] > gains[-1]
    assert gains == sorted(gains, reverse=True)
    assert choice.chosen.acceptable
    assert ACCEPTABLE[0] <= choice.chosen.gain <= ACCEPTABLE[1]
    assert choice.chosen.change < 0.0
    best = max(-c.step.quadratic for c in choice.candidates if c.acceptable)
    assert -choice.chosen.step.quadratic >= ENOUGH * best * (1.0 - 1e-3)


def test_where_the_objective_falls_faster_than_any_quadratic_no_bad_step_is_chosen() -> None:
    case = OPERATORS["easy"].build(4, 40)
    basis = _basis(case)
    middle = solve_in_basis(basis, weight_of_damping(basis, 0.1))
    factor = -0.3 * abs(middle.quadratic) / float(middle.step.norm()) ** 3
    choice = choose_weight(basis, _Objective(case, _cubic_term(factor)))
    assert choice.candidates[-1].gain > ACCEPTABLE[1]
    assert choice.chosen.acceptable


def test_a_good_step_behind_a_bad_one_is_not_trusted() -> None:
    case = OPERATORS["wildly scaled"].build(4, 40)
    basis = _basis(case)
    lengths = [
        float(solve_in_basis(basis, weight_of_damping(basis, rho)).step.norm())
        for rho in RELATIVE_DAMPINGS
    ]
    wall = (0.5 * (lengths[2] + lengths[3]), 0.5 * (lengths[3] + lengths[4]))

    def between_walls(steps: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(steps, dim=1)
        return 1e3 * ((length > wall[0]) & (length < wall[1])).double()

    choice = choose_weight(basis, _Objective(case, between_walls))
    assert choice.candidates[-1].acceptable
    assert float(_lifted(basis, choice.chosen).norm()) < wall[0]
    assert choice.chosen.acceptable


def test_a_refused_second_round_falls_back_to_a_step_that_was_confirmed() -> None:
    case = OPERATORS["wildly scaled"].build(4, 40)
    basis, calls = _basis(case), 0

    def evaluate(steps: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        change = _Objective(case)(steps)
        return change if calls == 1 else -change

    choice = choose_weight(basis, evaluate)
    assert choice.rounds == 2
    (refused,) = (i for i, c in enumerate(choice.candidates) if not c.acceptable)
    assert choice.chosen is choice.candidates[refused + 1]


@pytest.mark.parametrize("factor", [3.0, -3.0])
def test_where_nothing_is_acceptable_the_nearest_gain_is_chosen(factor: float) -> None:
    case = OPERATORS["easy"].build(6, 40)
    basis = _basis(case)
    first = solve_in_basis(basis, weight_of_damping(basis, RELATIVE_DAMPINGS[0]))
    strength = factor * abs(first.quadratic) / float(first.step.norm()) ** 3
    objective = _Objective(case, _cubic_term(strength))
    choice = choose_weight(basis, objective)
    _require_consistent(choice, objective)
    assert choice.rounds == 1
    assert not any(candidate.acceptable for candidate in choice.candidates)
    distances = [abs(candidate.gain - 1.0) for candidate in choice.candidates]
    assert abs(choice.chosen.gain - 1.0) == min(distances)
    assert choice.chosen is choice.candidates[0]


@pytest.mark.parametrize("scale", [1e-6, 37.0, 1e6])
@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("kind", [*SPREAD_KINDS, "indefinite"])
def test_the_unit_of_the_objective_does_not_matter(kind: str, absolute: bool, scale: float) -> None:
    case = OPERATORS[kind].build(8, 40)
    scaled = CubicCase(case.matrix * scale, case.gradient * scale, case.weight)
    plain, times = (
        _Objective(c, _cubic_term(f)) for c, f in ((case, 1e-2), (scaled, scale * 1e-2))
    )
    bases = (_basis(case), _basis(scaled))
    one = choose_weight(bases[0], plain, absolute=absolute).chosen
    other = choose_weight(bases[1], times, absolute=absolute).chosen
    torch.testing.assert_close(
        _lifted(bases[1], other), _lifted(bases[0], one), rtol=1e-5, atol=1e-8
    )
    assert other.gain == pytest.approx(one.gain, rel=1e-6)
    assert other.step.weight == pytest.approx(scale * one.step.weight, rel=1e-5)


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("relative", [*RELATIVE_DAMPINGS, 1e-6])
@pytest.mark.parametrize("kind", [*SPREAD_KINDS, "singular", "indefinite", "repeated leftmost"])
def test_weight_of_damping_gives_the_damping_that_was_asked_for(
    kind: str, relative: float, absolute: bool
) -> None:
    basis = _basis(OPERATORS[kind].build(9, 30, scale=5.0))
    ritz = torch.linalg.eigvalsh(basis.projection)
    largest = float(ritz.abs().max())
    pole = 0.0 if absolute else max(0.0, -float(ritz[0]))
    weight = weight_of_damping(basis, relative, absolute=absolute)
    step = solve_in_basis(basis, weight, absolute=absolute)
    assert (step.damping - pole) / largest == pytest.approx(relative, rel=1e-8)
    assert math.isclose(0.5 * weight * float(step.step.norm()), step.damping, rel_tol=1e-10)


@pytest.mark.parametrize("at_once", [1, 2, 3, 6, 7, 100])
@pytest.mark.parametrize("kind", SPREAD_KINDS)
def test_how_many_fit_at_once_does_not_change_the_choice(kind: str, at_once: int) -> None:
    case = OPERATORS[kind].build(3, 40)
    basis = _basis(case)
    whole, parts = _Objective(case), _Objective(case)
    expected = choose_weight(basis, whole)
    found = choose_weight(basis, parts, at_once=at_once)
    assert all(candidate.acceptable for candidate in expected.candidates)
    assert found.chosen.step.weight == expected.chosen.step.weight
    assert found.chosen.change == pytest.approx(expected.chosen.change, rel=1e-12)
    assert [c.step.weight for c in found.candidates] == [c.step.weight for c in expected.candidates]
    first, grid = len(whole.sizes) - 1, len(RELATIVE_DAMPINGS)
    assert found.rounds == len(parts.sizes) == math.ceil(grid / at_once) + first
    assert max(parts.sizes) <= at_once


@pytest.mark.parametrize("at_once", [1, 2, 3])
@pytest.mark.parametrize("good", range(len(RELATIVE_DAMPINGS)))
def test_the_search_ends_with_the_round_that_brings_a_bad_step(good: int, at_once: int) -> None:
    """Beyond a length, the first ``good`` steps of the grid are acceptable and no other."""
    case = OPERATORS["wildly scaled"].build(4, 40)
    basis = _basis(case)
    lengths = [
        float(solve_in_basis(basis, weight_of_damping(basis, rho)).step.norm())
        for rho in RELATIVE_DAMPINGS
    ]
    wall = 0.5 * ((lengths[good - 1] if good else 0.0) + lengths[good])

    def beyond(steps: Tensor) -> Tensor:
        return 1e3 * (torch.linalg.vector_norm(steps, dim=1) > wall).double()

    objective = _Objective(case, beyond)
    choice = choose_weight(basis, objective, at_once=at_once)
    searched = good // at_once + 1
    asked = min(searched * at_once, len(RELATIVE_DAMPINGS))
    assert sum(objective.sizes[:searched]) == asked
    assert choice.rounds == len(objective.sizes) <= searched + 1
    assert len(choice.candidates) == sum(objective.sizes)
    if good:
        assert choice.chosen.acceptable
        assert choice.chosen.step.weight == choose_weight(basis, objective).chosen.step.weight
    else:
        assert choice.rounds == searched
        assert not any(candidate.acceptable for candidate in choice.candidates)


@pytest.mark.parametrize("at_once", [0, -1])
def test_no_step_at_once_is_refused(at_once: int) -> None:
    case = OPERATORS["easy"].build(4, 40)
    objective = _Objective(case)
    with pytest.raises(ValueError, match="at_once"):
        choose_weight(_basis(case), objective, at_once=at_once)
    assert objective.sizes == []


def test_a_candidate_whose_losses_overflow_is_told_without_a_change() -> None:
    case = OPERATORS["easy"].build(4, 40)
    basis = _basis(case)
    choice = choose_weight(basis, lambda steps: torch.full((len(steps),), math.inf).double())
    assert not any(candidate.acceptable for candidate in choice.candidates)
    for candidate in choice.candidates:
        assert candidate.gain == -math.inf
        told = json.loads(json.dumps(candidate.as_dict(), allow_nan=False))
        assert told["acceptable"] is False
        assert "change" not in told and "gain" not in told
    quadratic = Candidate(solve_reduced(basis, 1.0), -0.25)
    told = quadratic.as_dict()
    assert told["change"] == -0.25
    assert told["gain"] == -0.25 / quadratic.step.quadratic
    assert told["weight"] == 1.0
    assert told["damping"] == quadratic.step.damping
    assert told["predicted"] == quadratic.step.predicted


def test_what_is_but_rounding_does_not_speak_against_the_model() -> None:
    case = OPERATORS["easy"].build(0, 20)
    basis = _basis(case)
    foretold = max(
        -solve_reduced(basis, weight_of_damping(basis, rho)).quadratic for rho in RELATIVE_DAMPINGS
    )
    # An objective that is evaluated so coarsely that any change is lost in it.
    noise = torch.tensor([1.0, -1.0, 0.5, -0.5, 0.0, 1.0, -1.0], dtype=torch.float64) * foretold
    objective = _Objective(case)

    def coarse(steps: Tensor) -> Tensor:
        return objective(steps) * 0.0 + noise[: len(steps)]

    blind = choose_weight(basis, coarse)
    assert not all(c.acceptable for c in blind.candidates)
    told = choose_weight(basis, coarse, resolution=lambda: 2.0 * foretold)
    assert all(c.gain == 1.0 and c.acceptable for c in told.candidates)
    assert -told.chosen.step.quadratic >= 0.99 * ENOUGH * foretold
    # A change that is larger than rounding counts, however coarse the rest.
    below = choose_weight(basis, coarse, resolution=lambda: 0.9 * foretold)
    assert not all(c.acceptable for c in below.candidates)
