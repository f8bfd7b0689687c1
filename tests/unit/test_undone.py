"""What training left undone: its measures on gradient flow, its laws, and what is said of it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.settings import TrainingSettings
from fedunlearn.unlearning.unfinished_training import Undone, measure_undone
from tests.laws import laws

AT = 0.85
shares = st.floats(0.01, 0.9)


def flowed(times: float, share: float, scale: float = 1.0, seed: int = 0) -> Undone:
    """Measure gradient flow on a quadratic of curvature 1, from a start apart."""
    generator = torch.Generator().manual_seed(seed)
    start = 3.0 + torch.randn(6, generator=generator, dtype=torch.float64)
    leaving = -0.1 * torch.randn(6, generator=generator, dtype=torch.float64)
    end = start * math.exp(-times)
    point = start + AT * (end - start)
    return measure_undone(
        TrainedModel(end, start, TrainingSettings()),
        scale * leaving,
        scale * end,
        scale * point,
        share=share,
        linearise_at=AT,
        completion=None,
    )


@laws(60)
@given(times=st.floats(0.01, 12.0), share=shares, seed=st.integers(0, 99))
def test_gradients_tell_how_far_gradient_flow_went(times: float, share: float, seed: int) -> None:
    found = flowed(times, share, seed=seed)
    assert found.ahead == pytest.approx(1.0 / math.expm1(times), rel=1e-6)
    assert found.least_damping == pytest.approx(0.5 / math.expm1(times), rel=1e-6)
    assert found.least_damping <= 0.5 / times
    assert found.converged == (times >= math.log(2.0))


@laws(60)
@given(share=shares, more=st.floats(1.0, 1.2))
def test_completion_follows_what_leaves_and_never_more(share: float, more: float) -> None:
    found = flowed(1.0, share)
    assert found.completion == share
    other = flowed(1.0, min(0.95, share * more))
    assert 0.0 <= other.completion - found.completion <= share * (more - 1.0) + 1e-12


@laws(60)
@given(exponent=st.integers(-40, 40), times=st.floats(0.1, 5.0))
def test_the_units_of_the_loss_change_nothing_but_the_damping(exponent: int, times: float) -> None:
    scale = 2.0**exponent
    one, other = flowed(times, 0.1), flowed(times, 0.1, scale)
    assert other.ahead == pytest.approx(one.ahead, rel=1e-9)
    assert other.over_leaving == pytest.approx(one.over_leaving, rel=1e-9)
    assert other.completion == one.completion
    assert other.least_damping == pytest.approx(scale * one.least_damping, rel=1e-9)


def test_where_training_converged_nothing_is_said_and_nothing_damped() -> None:
    found = flowed(30.0, 0.1)
    assert found.least_damping < 1e-12
    assert found.converged and not found.outweighs
    assert found.remark is None


@pytest.mark.parametrize(
    ("times", "scale", "says"),
    [
        (0.1, 1.0, "training had not converged, and what it left undone outweighs the forget set"),
        (3.0, 1.0, "what training left undone outweighs the forget set: "),
    ],
)
def test_what_is_wrong_is_said_with_its_remedy(times: float, scale: float, says: str) -> None:
    remark = flowed(times, 0.1, scale).remark
    assert remark is not None and remark.startswith(says)
    assert remark.endswith("train further before the removal, add recovery rounds, or retrain")


def test_a_small_gradient_on_a_way_that_does_not_bend_had_not_converged() -> None:
    straight = torch.ones(4, dtype=torch.float64)
    found = measure_undone(
        TrainedModel(torch.zeros_like(straight), straight, TrainingSettings()),
        -straight,
        1e-3 * straight,
        1e-3 * straight,
        share=0.1,
        linearise_at=AT,
        completion=None,
    )
    assert not found.converged and not found.outweighs
    assert found.remark == (
        "training had not converged: train further before the removal, add recovery rounds, or "
        "retrain"
    )


def test_what_is_not_known_is_left_out() -> None:
    weights = torch.ones(3, dtype=torch.float64)
    found = measure_undone(
        TrainedModel(weights, weights, TrainingSettings()),
        torch.zeros(3, dtype=torch.float64),
        weights,
        None,
        share=0.2,
        linearise_at=1.0,
        completion=0.3,
    )
    assert "training_ahead" not in found.as_dict()
    assert found.completion == 0.3
    assert found.least_damping == found.over_leaving == 0.0
    assert found.converged
