"""The cost of a method: rounds, bytes, client compute, time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Cost:
    """The cost of a piece of work.

    Attributes:
        rounds: Number of broadcasts with their answers.
        bytes_up: Bytes from the nodes to the server, counted at the transport.
        bytes_down: Bytes from the server to the nodes.
        gradient_equivalents: Client compute; 1 is one gradient over all retained examples, where
            each node computes over its own.
        seconds: Wall time.
    """

    rounds: int
    bytes_up: int
    bytes_down: int
    gradient_equivalents: float
    seconds: float


@dataclass
class Meter:
    """Counters of running rounds. Transports count rounds and bytes, callers count compute."""

    rounds: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    example_gradients: float = 0.0
    started: float = field(default_factory=time.perf_counter)
    ended: float | None = None

    def stopped(self) -> Meter:
        """Return a copy whose clock has stopped."""
        return replace(self, ended=time.perf_counter())

    def __add__(self, other: Meter) -> Meter:
        """Return the sum of the counts of two stopped meters."""
        assert self.ended is not None and other.ended is not None
        return Meter(
            rounds=self.rounds + other.rounds,
            bytes_up=self.bytes_up + other.bytes_up,
            bytes_down=self.bytes_down + other.bytes_down,
            example_gradients=self.example_gradients + other.example_gradients,
            started=self.started,
            ended=self.ended + other.ended - other.started,
        )

    def cost(self, retained_examples: int) -> Cost:
        """Return the cost so far, in gradient equivalents of this number of examples."""
        ended = time.perf_counter() if self.ended is None else self.ended
        return Cost(
            rounds=self.rounds,
            bytes_up=self.bytes_up,
            bytes_down=self.bytes_down,
            gradient_equivalents=self.example_gradients / retained_examples,
            seconds=ended - self.started,
        )


class MeterStack:
    """Meters that run at the same time, the inner ones as parts of the outer ones."""

    def __init__(self) -> None:
        """Start without a meter."""
        self._running: list[Meter] = []
        self._in_one_round = False

    @contextmanager
    def measure(self) -> Iterator[Meter]:
        """Count all work inside the block."""
        meter = Meter()
        self._running.append(meter)
        try:
            yield meter
        finally:
            self._running.remove(meter)

    @contextmanager
    def one_round(self) -> Iterator[None]:
        """Count all broadcasts inside the block as one: they do not depend on each other."""
        self.count_round()
        self._in_one_round = True
        try:
            yield
        finally:
            self._in_one_round = False

    def count_round(self) -> None:
        """Count one broadcast."""
        if self._in_one_round:
            return
        for meter in self._running:
            meter.rounds += 1

    def count_bytes(self, *, up: int = 0, down: int = 0) -> None:
        """Count bytes of payload."""
        for meter in self._running:
            meter.bytes_up += up
            meter.bytes_down += down

    def count_compute(self, example_gradients: float) -> None:
        """Count client compute, in gradients of one example."""
        for meter in self._running:
            meter.example_gradients += example_gradients
