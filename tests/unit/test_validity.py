"""The estimate of trust: its bounds, its laws, and what it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.questions.subspace_summary import Summary
from fedunlearn.recording.basis import MemoryBasis
from fedunlearn.recording.recording import Recording
from fedunlearn.solvers.weight import Candidate
from fedunlearn.unlearning.validity import LARGEST_LEVERAGE, LARGEST_SHARE, Validity
from tests.laws import laws

SIZE = 4
LAW = laws(60)


def summary(examples: int, seed: int, *, indefinite: bool = False) -> Summary:
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((examples, SIZE))
    gradient = rows.sum(0)
    curvature = rows.T @ rows
    if indefinite:
        curvature -= 2.0 * np.trace(curvature) * np.eye(SIZE)
    square = float(gradient @ gradient)
    return Summary(examples, float(examples), square / 0.8, square / 4.0, gradient, curvature)


def after(stays: Summary, leaves: Summary) -> Recording:
    return Recording(
        basis=MemoryBasis(torch.eye(SIZE)),
        share=1.0,
        point=np.zeros(SIZE),
        weight_decay=1e-3,
        horizon=50.0,
        absolute=False,
        by_label=False,
        examples=stays.examples + leaves.examples,
        mass=stays.mass + leaves.mass,
        batch_size=None,
        stays=stays,
        groups={},
        left=leaves.gradient,
        coordinates=np.zeros(SIZE),
        model=b"",
    )


def judged(stays: Summary, leaves: Summary) -> Validity:
    recording = after(stays, leaves)
    return Validity.of(leaves, recording, recording.problem().damped(0.01))


@LAW
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 99))
def test_leverage_is_a_share_and_grows_with_what_leaves(stay: int, leave: int, seed: int) -> None:
    stays, leaves = summary(stay, seed), summary(leave, seed + 1000)
    validity = judged(stays, leaves)
    assert 0.0 <= validity.leverage < 1.0
    more = leaves + summary(3, seed + 2000)
    recording = after(stays, leaves)
    step = recording.problem().damped(0.01)
    whole = after(stays - (more - leaves), more)
    assert Validity.of(more, whole, step).leverage >= validity.leverage * (1 - 1e-12)
    assert validity.share == pytest.approx(leave / (stay + leave))
    assert validity.inside == pytest.approx(0.8)


def test_leverage_is_the_largest_generalised_rayleigh_quotient() -> None:
    stays, leaves = summary(30, 1), summary(10, 2)
    recording = after(stays, leaves)
    step = recording.problem().damped(0.01)
    floor = recording.examples * (recording.weight_decay + step.damping)
    whole = leaves.curvature + stays.curvature + floor * np.eye(SIZE)
    directions = np.random.default_rng(0).standard_normal((20_000, SIZE))
    quotients = np.einsum("nd,de,ne->n", directions, leaves.curvature, directions)
    quotients /= np.einsum("nd,de,ne->n", directions, whole, directions)
    leverage = Validity.of(leaves, recording, step).leverage
    assert quotients.max() <= leverage
    assert quotients.max() == pytest.approx(leverage, rel=1e-2)


def test_a_little_of_much_is_trusted() -> None:
    validity = judged(summary(500, 1), summary(10, 2))
    assert validity.trusted
    assert validity.verdict == "converged: no check speaks against the step"
    assert "gain" not in validity.as_dict()


@pytest.mark.parametrize(
    ("stay", "leave", "says"),
    [
        (100, 90, "47% of the data have left, more than 42%: retrain, or use rewind"),
        (40, 160, "of the curvature leaves in some direction, more than 67%: use rounds"),
    ],
)
def test_what_speaks_against_it_is_named_with_its_remedy(stay: int, leave: int, says: str) -> None:
    validity = judged(summary(stay, 1), summary(leave, 2))
    assert not validity.trusted
    assert validity.share > LARGEST_SHARE or validity.leverage > LARGEST_LEVERAGE
    assert says in validity.verdict
    assert validity.verdict.startswith("do not trust the step alone: ")
    assert "\n" not in validity.verdict


def test_a_step_that_failed_its_check_is_not_trusted() -> None:
    stays, leaves = summary(500, 1), summary(10, 2)
    recording = after(stays, leaves)
    step = recording.problem().damped(0.01)
    bad = Candidate(step, 0.1 * step.quadratic)
    validity = Validity.of(leaves, recording, step, (bad,))
    assert not validity.trusted
    assert "0.1 of what was predicted: use rounds" in validity.verdict
    assert validity.as_dict()["gain"] == pytest.approx(0.1)
    good = Candidate(step, step.quadratic)
    assert Validity.of(leaves, recording, step, (good,)).trusted


def test_a_step_that_was_damped_more_than_recorded_is_said_to_remove_less() -> None:
    stays, leaves = summary(500, 1), summary(10, 2)
    recording = after(stays, leaves)
    recorded, damped = (recording.problem().damped(damping) for damping in (0.01, 0.16))
    tried = (Candidate(recorded, 0.1 * recorded.quadratic), Candidate(damped, damped.quadratic))
    validity = Validity.of(leaves, recording, damped, tried)
    assert not validity.trusted
    assert validity.acceptable is True
    assert "a more damped one was taken, which removes less: use rounds" in validity.verdict
    kept = (Candidate(recorded, recorded.quadratic), tried[1])
    assert Validity.of(leaves, recording, recorded, kept).trusted


def test_negative_curvature_gives_no_bound() -> None:
    stays, leaves = summary(20, 1, indefinite=True), summary(10, 2)
    assert 0.0 <= judged(stays, leaves).leverage <= 1.0  # damped beyond the pole
    recording = after(stays, leaves)
    undamped = recording.problem().weighted(0.0)
    assert Validity.of(leaves, recording, undamped).leverage == 1.0


def test_a_gradient_of_zero_is_inside() -> None:
    nothing = Summary(5, 5.0, 0.0, 0.0, np.zeros(SIZE), np.zeros((SIZE, SIZE)))
    validity = judged(summary(20, 1), nothing)
    assert validity.inside == 1.0
    assert validity.leverage == 0.0
