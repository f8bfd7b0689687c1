"""Keeps a lease while work goes on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from fedunlearn.errors import FedunlearnError, LeaseLostError
from fedunlearn.requests.leases import Lease
from fedunlearn.requests.store import RequestStore

log = logging.getLogger(__name__)

Clock = Callable[[], datetime]


@contextmanager
def lease_renewed(
    store: RequestStore, lease: Lease, seconds: float, clock: Clock
) -> Iterator[None]:
    """Renew a lease three times as often as is needed, from a thread.

    A lease that is lost ends the thread: every write of the job is fenced, and the first that comes
    too late says so. A store that is busy is asked again.

    Yields:
        Nothing; the lease is kept inside of the block.
    """
    over = threading.Event()

    def renew() -> None:
        while not over.wait(seconds / 3.0):
            try:
                store.renew(lease, now=clock(), seconds=seconds)
            except LeaseLostError:
                return
            except FedunlearnError as error:
                log.warning("the lease of job %s was not renewed: %s", lease.job, error)

    thread = threading.Thread(target=renew, name=f"lease of {lease.job}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
