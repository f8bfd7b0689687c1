"""The rest of training in fewer rounds, and what auto expects: their laws."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.settings import TrainingSettings
from fedunlearn.unlearning.expected_distance import after_rounds, after_step
from fedunlearn.unlearning.remaining_training import (
    LARGEST,
    earliest_start,
    remaining_schedule,
)
from tests.laws import laws


@laws(100)
@given(
    total=st.integers(2, 200),
    decay=st.floats(0.9, 1.0),
    data=st.data(),
)
def test_the_rest_takes_as_long_as_it_did(total: int, decay: float, data: st.DataObject) -> None:
    settings = TrainingSettings(rounds=total, learning_rate=0.1, learning_rate_decay=decay)
    done = data.draw(st.integers(0, total - 1))
    rounds = data.draw(st.integers(1, total + 5))
    schedule = remaining_schedule(settings, done, rounds)
    assert len(schedule.rates) == min(rounds, total - done)
    time = sum(settings.rate(number) for number in range(done + 1, total + 1))
    assert sum(schedule.rates) == pytest.approx(time, rel=1e-6)
    assert list(schedule.rates) == sorted(schedule.rates, reverse=True)
    assert schedule.rate(total + 1) == schedule.rates[0]


@laws(100)
@given(total=st.integers(5, 200), decay=st.floats(0.9, 1.0), rounds=st.integers(1, 60))
def test_the_start_is_the_earliest_whose_rates_are_not_too_large(
    total: int, decay: float, rounds: int
) -> None:
    settings = TrainingSettings(rounds=total, learning_rate=0.1, learning_rate_decay=decay)
    done = range(0, total + 1, 3)
    start = earliest_start(settings, done, rounds)
    largest = {
        number: max(remaining_schedule(settings, number, rounds).rates)
        for number in done
        if 0 < number < total
    }
    fits = [number for number, rate in largest.items() if rate <= LARGEST * 0.1]
    assert start == (min(fits) if fits else None)
    more = earliest_start(settings, done, rounds + 5)
    assert start is None or (more is not None and more <= start)


@laws(100)
@given(one=st.floats(0, 1), other=st.floats(0, 1), anew=st.floats(0, 1))
def test_more_leverage_is_never_expected_to_end_closer(
    one: float, other: float, anew: float
) -> None:
    low, high = sorted((one, other))
    assert 0.0 <= after_step(low) <= after_step(high)
    assert 0.0 <= after_rounds(low, anew) <= after_rounds(high, anew)
    assert after_rounds(one, 1.0) == 0.0 == after_step(0.0)
    assert after_rounds(one, anew) >= after_rounds(one, min(1.0, anew + 0.1))
