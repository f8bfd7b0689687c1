"""The rest of training from a checkpoint on, in fewer rounds than training took for it.

Gradient flow depends on the sum of the step sizes alone, so the rest of training fits into fewer
rounds with larger rates. The rates fall geometrically to the last rate of training, as in usual
schedules, and their sum is that of the rounds they stand for. Rates far above those of training
would diverge, so the checkpoint is the earliest from which the first rate is at most ``LARGEST``
times training's own first rate.
"""

from __future__ import annotations

from collections.abc import Iterable

from scipy.optimize import brentq

from fedunlearn.federation.training import Schedule
from fedunlearn.settings import TrainingSettings

LARGEST = 1.5


def remaining_schedule(settings: TrainingSettings, done: int, rounds: int) -> Schedule:
    """Return the schedule of the rest of training after so many rounds, in a number of rounds.

    Args:
        settings: The settings of training.
        done: The number of rounds that are done, less than that of training.
        rounds: The largest number of rounds, at least 1; no more than training took are used.

    Returns:
        The schedule, which begins after the last round of training.
    """
    rounds = min(rounds, settings.rounds - done)
    total = sum(settings.rate(number) for number in range(done + 1, settings.rounds + 1))
    last = settings.rate(settings.rounds)

    def rates(first: float) -> list[float]:
        steps = max(1, rounds - 1)
        return [float(first * (last / first) ** (i / steps)) for i in range(rounds)]

    def excess(first: float) -> float:
        return sum(rates(first)) - total

    # One round takes all of the time; as many as training took have its last rate, or more.
    first = total if rounds == 1 else last
    if rounds > 1 and excess(last) < 0.0:
        first = float(brentq(excess, last, total, rtol=1e-12))
    return Schedule(settings.rounds + 1, tuple(rates(first)))


def earliest_start(settings: TrainingSettings, done: Iterable[int], rounds: int) -> int | None:
    """Return the earliest checkpoint from which the rest of training fits into some rounds.

    Args:
        settings: The settings of training.
        done: The rounds after which there are checkpoints.
        rounds: The number of rounds that may be run, at least 1.

    Returns:
        The number of rounds done at that checkpoint; None where no checkpoint is late enough.
    """
    for number in sorted(done):
        if not 0 < number < settings.rounds:
            continue
        schedule = remaining_schedule(settings, number, rounds)
        if max(schedule.rates) <= LARGEST * settings.learning_rate:
            return number
    return None
