"""Stores requests in groups: one durable transaction for all that wait, by one thread.

A transaction costs one flush to the disk, however many rows it has; while one is under way the next
group gathers.
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

MOST = 64  # requests a transaction; more would let the first wait for the last
WAIT_S = 0.003  # for others that are likely to come: about what a transaction takes

_Waiting = tuple[NewDeletion, "asyncio.Future[Deletion]"]
_Outcome = Deletion | Exception


class Writer:
    """The thread, and what waits for it; made and used on the server's loop."""

    def __init__(self, store: RequestStore, settings: ServiceSettings) -> None:
        """Start the thread.

        Args:
            store: To write to.
            settings: The quotas.
        """
        self._store = store
        self._quotas = Quotas(store, settings)
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._last = 0
        self._thread = threading.Thread(target=self._run, name="deletion-writer", daemon=True)
        self._thread.start()

    async def store(self, new: NewDeletion) -> Deletion:
        """Have a request stored.

        Args:
            new: It was checked.

        Returns:
            The request, which is durable; the first answer where it is a repeat.
        """
        future: asyncio.Future[Deletion] = self._loop.create_future()
        self._queue.put((new, future))
        return await future

    def close(self) -> None:
        """Write what waits and end the thread; not on the loop, which the thread needs."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        more = True
        while more:
            group = self._gather()
            more = group[-1] is not None
            # A caller that has gone takes its request back as long as nothing is done for it.
            waiting = [one for one in group if one is not None and not one[1].cancelled()]
            outcomes = self._outcomes([new for new, _ in waiting])
            futures = [future for _, future in waiting]
            # Once for all of them, as each time wakes the loop.
            self._loop.call_soon_threadsafe(_resolve, futures, outcomes)

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
            # Nothing of the transaction is there, or it is not known.
            self._quotas.forget()
            if len(news) > 1 and not isinstance(error, StoreError):
                # One of them may be to blame, and is alone then; nothing is stored twice.
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
