"""What was spent: stopped clocks that add up, each recording by itself, and time of training."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.errors import NotRecordedError
from fedunlearn.federation.accounting import Cost, Meter, MeterStack
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.settings import TrainingSettings
from tests.federations import TRANSPORTS, TinyTask, weights_of
from tests.laws import laws
from tests.removals import SETTINGS, federation_of

LAW = laws(60)
counts = st.integers(0, 2**40)
meters = st.builds(
    lambda rounds, up, down, compute, started, lasted: Meter(
        rounds, up, down, compute, started, started + lasted
    ),
    *(counts, counts, counts),
    *(st.floats(0.0, 1e9), st.floats(0.0, 1e5), st.floats(0.0, 1e5)),
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Stand for the time, which is the last entry."""
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[-1])
    return now


def test_a_stopped_meter_counts_no_more_time(clock: list[float]) -> None:
    meter = Meter(rounds=2, bytes_up=3, bytes_down=4, example_gradients=10.0, started=100.0)
    clock.append(103.0)
    stopped = meter.stopped()
    clock.append(200.0)
    assert stopped.cost(5) == Cost(2, 3, 4, 2.0, 3.0)
    assert meter.cost(5) == replace(stopped.cost(5), seconds=100.0)
    assert meter.ended is None


def test_a_meter_can_be_stopped_at_once(clock: list[float]) -> None:
    clock.append(0.0)
    stopped = Meter(started=0.0).stopped()
    assert stopped.ended == 0.0
    assert stopped.cost(1).seconds == 0.0


@LAW
@given(meters, meters)
def test_stopped_meters_add_up(one: Meter, other: Meter) -> None:
    found, first, second = (meter.cost(7) for meter in (one + other, one, other))
    assert found.rounds == first.rounds + second.rounds
    assert found.bytes_up == first.bytes_up + second.bytes_up
    assert found.bytes_down == first.bytes_down + second.bytes_down
    assert found.gradient_equivalents == pytest.approx(
        first.gradient_equivalents + second.gradient_equivalents
    )
    assert found.seconds == pytest.approx(first.seconds + second.seconds, abs=1e-9)


def test_running_meters_do_not_add_up() -> None:
    with pytest.raises(AssertionError):
        Meter() + Meter().stopped()


def test_inner_meters_are_parts_of_outer_ones() -> None:
    stack = MeterStack()
    with stack.measure() as outer:
        stack.count_round()
        with stack.measure() as inner:
            stack.count_round()
            stack.count_bytes(up=3, down=2)
            stack.count_compute(1.5)
    stack.count_round()
    assert (outer.rounds, inner.rounds) == (2, 1)
    assert (outer.bytes_up, outer.bytes_down) == (inner.bytes_up, inner.bytes_down) == (3, 2)
    assert outer.example_gradients == inner.example_gradients == 1.5


def test_broadcasts_that_do_not_depend_on_each_other_are_one_round() -> None:
    stack = MeterStack()
    with stack.measure() as meter:
        with stack.one_round():
            stack.count_round()
            stack.count_round()
            stack.count_bytes(up=3, down=2)
        stack.count_round()
    assert (meter.rounds, meter.bytes_up) == (2, 3)


def horizon_by_hand(training: TrainingSettings, examples: list[int]) -> float:
    """Train nobody: add up the rates of the steps that each node would take."""
    time = 0.0
    rate = training.learning_rate
    for _ in range(training.rounds):
        for size in examples:
            own = 0.0
            for _ in range(training.local_epochs):
                for _ in range(0, size, training.batch_size):
                    own += rate
            time += own * size / sum(examples)
        rate *= training.learning_rate_decay
    return time


@LAW
@given(
    st.integers(1, 8),
    st.integers(1, 3),
    st.integers(1, 40),
    st.floats(1e-3, 2.0),
    st.floats(0.5, 1.0),
    st.lists(st.integers(1, 100), min_size=1, max_size=6),
)
def test_the_horizon_is_the_sum_of_the_step_sizes(
    rounds: int, epochs: int, batch: int, rate: float, decay: float, examples: list[int]
) -> None:
    training = TrainingSettings(
        rounds=rounds,
        local_epochs=epochs,
        batch_size=batch,
        learning_rate=rate,
        learning_rate_decay=decay,
    )
    by_hand = horizon_by_hand(training, examples)
    assert training.horizon(examples) == pytest.approx(by_hand, rel=1e-12)
    assert training.horizon(iter(examples)) == training.horizon(examples)


@dataclass(frozen=True)
class Rounds:
    """Something to record that takes a number of rounds."""

    number: int

    def record(self, trained: TrainedModel, federation: Federation) -> list[float]:
        objective = federation.objective(ForgetSet.of_nodes(), weight_decay=0.0)
        return [float(objective.gradient(trained.weights).norm()) for _ in range(self.number)]

    def __str__(self) -> str:
        return f"{self.number} norms"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_each_recordable_is_recorded_once_and_charged_by_itself(transport: str) -> None:
    federation, listening = federation_of(TinyTask(), range(3), transport=transport)
    everyone = sum(federation.examples.values())
    weights = weights_of(TinyTask())
    bare = TrainedModel(weights, torch.zeros_like(weights), SETTINGS)
    with federation.measure() as whole:
        model = federation.record(bare, [Rounds(1), Rounds(3), Rounds(1)])
        assert len(listening.heard) == 4
        again = federation.record(model, [Rounds(3), Rounds(2)])
    assert len(listening.heard) == 6
    assert not bare.recorded
    assert list(model.recorded) == [Rounds(1), Rounds(3)]
    assert list(again.recorded) == [Rounds(1), Rounds(3), Rounds(2)]
    for wanted, recorded in again.recorded.items():
        assert isinstance(wanted, Rounds)
        assert len(recorded.value) == recorded.spent.rounds == wanted.number
        assert recorded.spent.example_gradients == wanted.number * everyone
        assert recorded.spent.ended is not None
        assert again.recording(wanted, "") is recorded.value
    assert again.recorded[Rounds(3)] is model.recorded[Rounds(3)]
    for field in ("rounds", "bytes_up", "bytes_down", "example_gradients"):
        of_each = [getattr(recorded.spent, field) for recorded in again.recorded.values()]
        assert getattr(whole, field) == sum(of_each)
    total = again.recorded[Rounds(1)].spent + again.recorded[Rounds(3)].spent
    assert (total.rounds, total.ended is not None) == (4, True)
    assert (again.weights is weights, again.settings is SETTINGS) == (True, True)


def test_what_was_not_recorded_is_named_with_its_remedy() -> None:
    weights = weights_of(TinyTask())
    model = TrainedModel(weights, weights, SETTINGS)
    with pytest.raises(NotRecordedError, match=r"no 2 norms; .*, or do without"):
        model.recording(Rounds(2), "do without")
