"""How a worker takes an open federation over from a user's own ServerApp."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.flower.own_federation import OwnFederation

# Takes over a federation that ``unlearning`` has opened, with the model that was trained.
TakeOver = Callable[[OwnFederation, TrainedModel], None]

_taker: ContextVar[TakeOver | None] = ContextVar("takes over from unlearning()", default=None)


class TakenOver(BaseException):
    """Ends a user's main function: a worker has done what was to be done after training."""


def hand_over(own: OwnFederation, trained: TrainedModel) -> None:
    """Let a worker take an open federation over, where one waits for it.

    Raises:
        TakenOver: It did; the run is over.
    """
    taker = _taker.get()
    if taker is not None:
        taker(own, trained)
        raise TakenOver


@contextmanager
def taking_over(taker: TakeOver) -> Iterator[None]:
    """Take over every federation that is opened inside of the block."""
    token = _taker.set(taker)
    try:
        yield
    finally:
        _taker.reset(token)


def handing_over() -> bool:
    """Return whether a worker waits for a federation to be opened."""
    return _taker.get() is not None
