"""The takeover of an open federation by a worker, from a user's own ServerApp."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.flower.own_federation import OwnFederation

# A function that takes over a federation that ``unlearning`` opened, with the trained model.
TakeOver = Callable[[OwnFederation, TrainedModel], None]

_taker: ContextVar[TakeOver | None] = ContextVar("takes over from unlearning()", default=None)


class TakenOver(BaseException):
    """An exception that ends a user's main function, after a worker has done its task."""


def hand_over(own: OwnFederation, trained: TrainedModel) -> None:
    """Hand an open federation over to a worker, where one waits for it.

    Raises:
        TakenOver: The worker has taken over, and the run is complete.
    """
    taker = _taker.get()
    if taker is not None:
        taker(own, trained)
        raise TakenOver


@contextmanager
def taking_over(taker: TakeOver) -> Iterator[None]:
    """Take over every federation that is opened inside the block."""
    token = _taker.set(taker)
    try:
        yield
    finally:
        _taker.reset(token)


def handing_over() -> bool:
    """Return whether a worker waits for a federation to be opened."""
    return _taker.get() is not None
