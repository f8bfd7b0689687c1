"""Renewal of a lease while its job runs."""

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
    """Renew a lease in a thread, three times within its duration.

    The thread ends if the lease is lost: every write of the job is fenced, so the first late write
    raises. If the store is busy, the thread tries again.

    Yields:
        None; the lease is renewed inside of the block.
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
