"""Stores requests in groups: one durable transaction for all that wait, by one thread.

A transaction costs one flush to the disk, however many rows it has; while one is under way the next
group gathers.
"""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future

from fedunlearn.errors import RequestReusedError
from fedunlearn.requests.deletion import Deletion, NewDeletion
from fedunlearn.requests.store import RequestStore
from fedunlearn.service.errors import Reason, ServiceRefusal
from fedunlearn.service.quotas import Quotas
from fedunlearn.service.settings import ServiceSettings

MOST = 64  # requests a transaction; more would let the first wait for the last
WAIT_S = 0.003  # for others that are likely to come: about what a transaction takes

_Waiting = tuple[NewDeletion, "Future[Deletion]"]


class Writer:
    """The thread, and what waits for it."""

    def __init__(self, store: RequestStore, settings: ServiceSettings) -> None:
        """Start the thread.

        Args:
            store: To write to.
            settings: The quotas.
        """
        self._store = store
        self._quotas = Quotas(store, settings)
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._last = 0
        self._thread = threading.Thread(target=self._run, name="deletion-writer", daemon=True)
        self._thread.start()

    def submit(self, new: NewDeletion) -> Future[Deletion]:
        """Have a request stored.

        Args:
            new: It was checked.

        Returns:
            Resolves when it is durable, or to a ServiceRefusal.
        """
        future: Future[Deletion] = Future()
        self._queue.put((new, future))
        return future

    def close(self) -> None:
        """Write what waits and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        more = True
        while more:
            more = self._write(self._gather())

    def _gather(self) -> list[_Waiting | None]:
        # Those of the last group that ask again, and those that came meanwhile.
        expected = min(self._last + self._queue.qsize(), MOST)
        group = [self._queue.get()]
        end = time.monotonic() + WAIT_S
        while group[-1] is not None and len(group) < MOST:
            # A single caller never waits for others.
            wait = max(0.0, end - time.monotonic()) if len(group) < expected else 0.0
            try:
                group.append(self._queue.get(timeout=wait) if wait else self._queue.get_nowait())
            except queue.Empty:
                break
        self._last = len(group)
        return group

    def _write(self, group: list[_Waiting | None]) -> bool:
        # From here on a caller that no longer waits cannot take its request back.
        waiting = [
            one for one in group if one is not None and one[1].set_running_or_notify_cancel()
        ]
        try:
            self._store_all([one for one in waiting if self._counted(*one)])
        except Exception as error:
            self._quotas.forget()
            for _, future in waiting:
                if not future.done():
                    future.set_exception(error)
        return group[-1] is not None

    def _counted(self, new: NewDeletion, future: Future[Deletion]) -> bool:
        try:
            self._quotas.take(new)
        except ServiceRefusal as refusal:
            future.set_exception(refusal)
            return False
        return True

    def _store_all(self, waiting: list[_Waiting]) -> None:
        if not waiting:
            return
        outcomes = self._store.create_many([new for new, _ in waiting])
        for (new, future), outcome in zip(waiting, outcomes, strict=True):
            if isinstance(outcome, RequestReusedError):
                self._quotas.give_back(new.owner)
                future.set_exception(ServiceRefusal(Reason.REQUEST_ID_REUSED, str(outcome)))
                continue
            deletion, made = outcome
            if not made:
                self._quotas.give_back(new.owner)
            future.set_result(deletion)
        self._quotas.stored()
