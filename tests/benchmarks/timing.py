"""Times things side by side, so that ratios hold where the machine's speed drifts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

Work = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Times:
    """Seconds of each piece of work by round, and what each returned in the last.

    Attributes:
        seconds: Of the rounds, by name.
        results: By name.
    """

    seconds: Mapping[str, list[float]]
    results: Mapping[str, Tensor]

    def ratio(self, one: str, other: str) -> float:
        """Return the median over rounds of one's time over the other's in the same round."""
        pairs = zip(self.seconds[one], self.seconds[other], strict=True)
        return statistics.median(a / b for a, b in pairs)

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])


def alternate(work: Mapping[str, Work], vectors: Tensor, rounds: int) -> Times:
    """Let each piece of work handle the vectors (k, d) in turn, round after round.

    The first vector alone, which does not count, warms everything up.
    """
    for function in work.values():
        function(vectors[:1])
    seconds: dict[str, list[float]] = {name: [] for name in work}
    results: dict[str, Tensor] = {}
    for _ in range(rounds):
        for name, function in work.items():
            start = time.perf_counter()
            results[name] = function(vectors)
            seconds[name].append(time.perf_counter() - start)
    return Times(seconds, results)
