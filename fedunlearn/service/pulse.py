"""Detection of changes that other processes made in the store, for the calls that wait for them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fedunlearn.errors import StoreError
from fedunlearn.requests.store import RequestStore
from fedunlearn.service.errors import Reason, ServiceRefusal
from fedunlearn.service.snapshot import Snapshot, log_size

LOGGER = logging.getLogger("fedunlearn.service")
BEAT_S = 0.2
# If the store was not read for this long, a key may have been revoked without being noticed.
STALE_S = 10.0
MOST_EVENTS = 1000

# Runs a blocking function outside of the event loop, and returns its result.
Blocking = Callable[..., Awaitable[Any]]


class Pulse:
    """Polls the store a few times a second; used on the server's event loop only."""

    def __init__(self, store: RequestStore, blocking: Blocking) -> None:
        """Read the first snapshot.

        Args:
            store: Request store to poll.
            blocking: Runs a blocking function in a thread.
        """
        self._store = store
        self._blocking = blocking
        self._snapshot = Snapshot.of(store)
        self._last_event = store.last_event()
        self._seen = time.monotonic()
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._reading = asyncio.Lock()

    @property
    def snapshot(self) -> Snapshot:
        """The last snapshot of the store.

        Raises:
            ServiceRefusal: The snapshot is too old, as the store does not answer.
        """
        if not self.fresh:
            raise ServiceRefusal(Reason.STORE_BUSY, "the store does not answer; try again")
        return self._snapshot

    @property
    def fresh(self) -> bool:
        """Whether the store has answered recently."""
        return time.monotonic() - self._seen <= STALE_S

    async def refresh(self) -> bool:
        """Renew the snapshot if the log has grown; return whether it has grown."""
        async with self._reading:
            begun = time.monotonic()
            size: int = await self._blocking(log_size, self._store)
            grown = size != self._snapshot.size
            if grown:
                self._snapshot = await self._blocking(Snapshot.of, self._store)
            self._seen = begun
            return grown

    async def run(self) -> None:
        """Poll the store until the task is cancelled."""
        while True:
            await asyncio.sleep(BEAT_S)
            try:
                await self.refresh()
                await self._wake_changed()
            except StoreError as error:
                LOGGER.warning("the store does not answer: %s", error)
            except Exception:
                # If polling ended here, revoked keys would be accepted from then on.
                LOGGER.exception("polling the store failed")

    @contextmanager
    def watching(self, id: str) -> Iterator[asyncio.Event]:
        """Wait for changes of a request.

        Args:
            id: Id of the request.

        Yields:
            An event that is set at each change; the caller clears it before it reads the store.
        """
        event = asyncio.Event()
        self._waiting[id].add(event)
        try:
            yield event
        finally:
            self._waiting[id].discard(event)
            if not self._waiting[id]:
                del self._waiting[id]

    def wake(self, id: str) -> None:
        """Wake the calls that watch a request."""
        for event in self._waiting.get(id, ()):
            event.set()

    def wake_all(self) -> None:
        """Wake all calls, as the server stops."""
        for id in self._waiting:
            self.wake(id)

    async def _wake_changed(self) -> None:
        last = await self._blocking(self._store.last_event)
        if last == self._last_event:
            return
        if self._waiting:
            events = await self._blocking(
                self._store.events, None, self._last_event, limit=MOST_EVENTS
            )
            for event in events:
                self.wake(event.deletion)
            last = events[-1].number if events else last
        self._last_event = last
