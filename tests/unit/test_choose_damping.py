"""The weight of a damping that follows from the duration of training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fedunlearn.solvers.cubic import lift, solve_reduced
from fedunlearn.solvers.lanczos import KrylovBasis, lanczos
from fedunlearn.solvers.linear_operator import DenseOperator
from fedunlearn.solvers.weight import MORE_DAMPING, Candidate, choose_damping, weight_of_damping
from tests.cases import OPERATORS, CubicCase

KINDS = ["easy", "wildly scaled", "indefinite"]
NUMBERS = range(len(MORE_DAMPING))


class _Objective:
    """The quadratic of a case, and much more where a step is longer than a wall.

    Attributes:
        sizes: The number of steps in each call.
    """

    def __init__(self, case: CubicCase, wall: float = math.inf) -> None:
        self._case = case
        self._wall = wall
        self.sizes: list[int] = []

    def __call__(self, steps: Tensor) -> Tensor:
        self.sizes.append(steps.shape[0])
        bent = ((steps @ self._case.matrix) * steps).sum(1)
        beyond = (torch.linalg.vector_norm(steps, dim=1) > self._wall).double()
        return steps @ self._case.gradient + 0.5 * bent + 1e12 * beyond


def _made(kind: str, share: float = 0.01) -> tuple[CubicCase, KrylovBasis, float]:
    """Return a case, its basis, and a damping: a share of the largest Ritz value."""
    case = OPERATORS[kind].build(4, 40)
    *_, basis = lanczos(DenseOperator(case.matrix), case.gradient, 12)
    return case, basis, share * _largest(basis)


def _largest(basis: KrylovBasis) -> float:
    return float(np.abs(np.linalg.eigvalsh(basis.projection.numpy())).max())


def _lengths(basis: KrylovBasis, damping: float) -> list[float]:
    """Return the lengths of the steps of all multiples of a damping, the longest first."""
    relative = [more * damping / _largest(basis) for more in MORE_DAMPING]
    steps = [solve_reduced(basis, weight_of_damping(basis, rho)) for rho in relative]
    return [float(step.norm()) for step in lift(basis, steps)]


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("share", [1e-4, 0.01, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_candidates_have_the_damping_that_is_given_and_its_multiples(
    kind: str, share: float, absolute: bool
) -> None:
    case, basis, damping = _made(kind, share)
    ritz = np.linalg.eigvalsh(basis.projection.numpy())
    pole = 0.0 if absolute else max(0.0, -float(ritz[0]))
    choice = choose_damping(basis, _Objective(case), damping, absolute=absolute)
    found = [candidate.step.damping - pole for candidate in choice.candidates]
    expected = [more * damping for more in MORE_DAMPING]
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-8 * _largest(basis))
    assert all(c.step.damping == pytest.approx(_half_weight(c)) for c in choice.candidates)


def _half_weight(candidate: Candidate) -> float:
    return 0.5 * candidate.step.weight * float(np.linalg.norm(candidate.step.coordinates))


@pytest.mark.parametrize("bad", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_acceptable_candidate_is_taken_in_one_round(kind: str, bad: int) -> None:
    """The first ``bad`` candidates, which are the longest steps, lie behind a wall."""
    case, basis, damping = _made(kind)
    lengths = _lengths(basis, damping)
    wall = 0.5 * (lengths[bad - 1] + lengths[bad]) if bad else math.inf
    objective = _Objective(case, wall)
    choice = choose_damping(basis, objective, damping)
    acceptable = [candidate.acceptable for candidate in choice.candidates]
    assert acceptable == [False] * bad + [True] * (len(MORE_DAMPING) - bad)
    assert choice.chosen is choice.candidates[bad]
    assert objective.sizes == [len(MORE_DAMPING)]
    assert choice.rounds == 1


@pytest.mark.parametrize("nearest", NUMBERS)
def test_where_none_is_acceptable_the_nearest_gain_is_taken(nearest: int) -> None:
    case, basis, damping = _made("easy")
    gains = [3.0 + abs(number - nearest) for number in NUMBERS]

    def evaluate(steps: Tensor) -> Tensor:
        return _Objective(case)(steps) * torch.tensor(gains).double()

    choice = choose_damping(basis, evaluate, damping)
    assert [c.gain for c in choice.candidates] == pytest.approx(gains)
    assert not any(c.acceptable for c in choice.candidates)
    assert choice.chosen is choice.candidates[nearest]


@pytest.mark.parametrize("at_once", [1, 2, 3, 4, 100])
@pytest.mark.parametrize("bad", NUMBERS)
def test_how_many_fit_at_once_does_not_change_the_choice(bad: int, at_once: int) -> None:
    case, basis, damping = _made("wildly scaled")
    lengths = _lengths(basis, damping)
    wall = 0.5 * (lengths[bad - 1] + lengths[bad]) if bad else math.inf
    objective = _Objective(case, wall)
    choice = choose_damping(basis, objective, damping, at_once=at_once)
    assert choice.chosen.step.weight == pytest.approx(
        choose_damping(basis, _Objective(case, wall), damping).chosen.step.weight
    )
    # The search ends with the round that brings an acceptable step.
    assert choice.rounds == len(objective.sizes) == bad // at_once + 1
    assert max(objective.sizes) <= at_once
    assert len(choice.candidates) == sum(objective.sizes)


def test_a_change_that_is_only_rounding_is_no_objection() -> None:
    _, basis, damping = _made("easy")
    wrong = choose_damping(basis, lambda steps: steps[:, 0] * 0.0 + 1.0, damping)
    assert not wrong.chosen.acceptable
    rounding = choose_damping(
        basis, lambda steps: steps[:, 0] * 0.0 + 1.0, damping, resolution=lambda: 1e9
    )
    assert rounding.chosen is rounding.candidates[0]
    assert rounding.chosen.acceptable


def test_the_unit_of_the_objective_does_not_matter() -> None:
    case, basis, damping = _made("easy")
    scaled = CubicCase(case.matrix * 37.0, case.gradient * 37.0, case.weight)
    *_, other = lanczos(DenseOperator(scaled.matrix), scaled.gradient, 12)
    one = choose_damping(basis, _Objective(case), damping).chosen.step
    two = choose_damping(other, _Objective(scaled), 37.0 * damping).chosen.step
    torch.testing.assert_close(lift(other, [two]), lift(basis, [one]), rtol=1e-6, atol=1e-9)
