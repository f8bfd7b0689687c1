"""Storing requests in groups: one thread stores all waiting requests in one durable transaction.

A transaction costs one flush to the disk, however many rows it has. While it runs, the next group
is collected.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Sequence

from fedunlearn.errors import RequestReusedError, StoreError
from fedunlearn.requests.deletion import Deletion, NewDeletion
from fedunlearn.requests.store import RequestStore
from fedunlearn.service.errors import Reason, ServiceRefusal
from fedunlearn.service.quotas import Quotas
from fedunlearn.service.service_settings import ServiceSettings

MOST = 64  # requests per transaction; with more, the first would wait too long for the last
WAIT_S = 0.003  # wait for expected requests: about the duration of a transaction

_Waiting = tuple[NewDeletion, "asyncio.Future[Deletion]"]
_Outcome = Deletion | Exception


class Writer:
    """The writing thread and its queue; made and used on the server's event loop."""

    def __init__(self, store: RequestStore, settings: ServiceSettings) -> None:
        """Start the thread.

        Args:
            store: Request store to write to.
            settings: Settings with the quotas.
        """
        self._store = store
        self._quotas = Quotas(store, settings)
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._last = 0
        self._thread = threading.Thread(target=self._run, name="deletion-writer", daemon=True)
        self._thread.start()

    async def store(self, new: NewDeletion) -> Deletion:
        """Store a request durably.

        Args:
            new: The checked request.

        Returns:
            The stored request; if the request is a repeat, the one that was stored first.
        """
        future: asyncio.Future[Deletion] = self._loop.create_future()
        self._queue.put((new, future))
        return await future

    def close(self) -> None:
        """Write the waiting requests and end the thread; not on the loop, which it needs."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        more = True
        while more:
            group = self._gather()
            more = group[-1] is not None
            # The request of a caller that has disconnected is dropped if it is not written yet.
            waiting = [one for one in group if one is not None and not one[1].cancelled()]
            outcomes = self._outcomes([new for new, _ in waiting])
            futures = [future for _, future in waiting]
            # One call for all futures, as every call wakes the loop.
            self._loop.call_soon_threadsafe(_resolve, futures, outcomes)

    def _gather(self) -> list[_Waiting | None]:
        # Callers of the last group may send another request; others have queued theirs.
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

    def _outcomes(self, news: Sequence[NewDeletion]) -> list[_Outcome]:
        found: dict[int, _Outcome] = {}
        counted: list[int] = []
        try:
            for place, new in enumerate(news):
                try:
                    self._quotas.take(new)
                    counted.append(place)
                except ServiceRefusal as refusal:
                    found[place] = refusal
            stored = self._stored([news[place] for place in counted])
            found.update(zip(counted, stored, strict=True))
            self._quotas.stored()
        except Exception as error:
            # The transaction was rolled back, or its outcome is unknown.
            self._quotas.forget()
            if len(news) > 1 and not isinstance(error, StoreError):
                # One request may be the cause, so each is tried alone; none is stored twice.
                return [self._outcomes([new])[0] for new in news]
            found = {place: found.get(place, error) for place in range(len(news))}
        return [found[place] for place in range(len(news))]

    def _stored(self, news: Sequence[NewDeletion]) -> list[_Outcome]:
        found: list[_Outcome] = []
        for new, outcome in zip(news, self._store.create_many(news), strict=True):
            if isinstance(outcome, RequestReusedError):
                self._quotas.give_back(new.owner)
                found.append(ServiceRefusal(Reason.REQUEST_ID_REUSED, str(outcome)))
                continue
            deletion, made = outcome
            if not made:
                self._quotas.give_back(new.owner)
            found.append(deletion)
        return found


def _resolve(
    futures: Sequence[asyncio.Future[Deletion]], outcomes: Sequence[Deletion | Exception]
) -> None:
    for future, outcome in zip(futures, outcomes, strict=True):
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
