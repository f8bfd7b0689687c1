"""Notices what other processes have changed in the store, and wakes those who wait for it."""

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
# Without a look at the store for so long, a key may have been revoked without being noticed.
STALE_S = 10.0
MOST_EVENTS = 1000

# Runs what blocks elsewhere than on the loop, and returns its result.
Blocking = Callable[..., Awaitable[Any]]


class Pulse:
    """Looks at the store a few times a second; lives on the server's loop."""

    def __init__(self, store: RequestStore, blocking: Blocking) -> None:
        """Read the first snapshot.

        Args:
            store: To look at.
            blocking: Runs what blocks.
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
        """What is known of the store.

        Raises:
            ServiceRefusal: It is too old, as the store does not answer.
        """
        if not self.fresh:
            raise ServiceRefusal(Reason.STORE_BUSY, "the store does not answer; try again")
        return self._snapshot

    @property
    def fresh(self) -> bool:
        """Whether the store has answered lately."""
        return time.monotonic() - self._seen <= STALE_S

    async def refresh(self) -> bool:
        """Read the snapshot anew if the log has grown; return whether it had."""
        async with self._reading:
            begun = time.monotonic()
            size: int = await self._blocking(log_size, self._store)
            grown = size != self._snapshot.size
            if grown:
                self._snapshot = await self._blocking(Snapshot.of, self._store)
            self._seen = begun
            return grown

    async def run(self) -> None:
        """Look at the store until cancelled."""
        while True:
            await asyncio.sleep(BEAT_S)
            try:
                await self.refresh()
                await self._wake_changed()
            except StoreError as error:
                LOGGER.warning("the store does not answer: %s", error)
            except Exception:
                # A pulse that ends would leave revoked keys in use.
                LOGGER.exception("looking at the store failed")

    @contextmanager
    def watching(self, id: str) -> Iterator[asyncio.Event]:
        """Wait for changes of a request.

        Args:
            id: Of the request.

        Yields:
            It is set at each change, to be cleared by who waits before reading.
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
        """Wake who waits for a request."""
        for event in self._waiting.get(id, ()):
            event.set()

    def wake_all(self) -> None:
        """Wake everyone, as the server stops."""
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
