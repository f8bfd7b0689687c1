"""Watching a request: all changes after a given one, in order, until the request has ended."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

from fedunlearn.requests.deletion import Deletion, Event, State
from fedunlearn.requests.store import RequestStore
from fedunlearn.service.errors import Reason, ServiceRefusal, Violation, refuse_fields
from fedunlearn.service.metrics import Metrics
from fedunlearn.service.pulse import Blocking, Pulse
from fedunlearn.service.service_settings import ServiceSettings

ENDED = frozenset({State.SUCCEEDED, State.REJECTED, State.CANCELLED})
PAGE = 100
LOOK_S = 30.0  # interval of reading the store without having been woken


class Watches:
    """All calls that watch a request; used on the server's event loop only."""

    def __init__(
        self,
        store: RequestStore,
        settings: ServiceSettings,
        pulse: Pulse,
        blocking: Blocking,
        metrics: Metrics,
    ) -> None:
        """Start without watches.

        Args:
            store: The request store with the events.
            settings: Settings with the largest number and duration of watches.
            pulse: Wakes the watches at changes.
            blocking: Runs a blocking function in a thread.
            metrics: Counts the watches.
        """
        self._store = store
        self._settings = settings
        self._pulse = pulse
        self._blocking = blocking
        self._metrics = metrics
        self._of: Counter[str] = Counter()
        self._stopping = False

    def stop(self) -> None:
        """End all watches; their clients resume them at another server, or later."""
        self._stopping = True
        self._pulse.wake_all()

    async def events(self, deletion: Deletion, watcher: str, after: int) -> AsyncIterator[Event]:
        """Report the changes of a request.

        Args:
            deletion: The request.
            watcher: Name of the principal who watches.
            after: Number of the last change that the watcher has seen.

        Yields:
            One change after the other; the last is the request's end.

        Raises:
            ServiceRefusal: There are too many watches, there is no change of that number yet, the
                server stops, or the watch has reached its longest duration.
        """
        if after > 0 and after > await self._blocking(self._store.last_event):
            wish = "must be the number of a change that was seen, or 0"
            refuse_fields([Violation("after_event", wish)])
        self._admit(watcher)
        self._of[watcher] += 1
        self._metrics.watches.inc()
        try:
            async for event in self._changes(deletion.id, after):
                yield event
        finally:
            self._of[watcher] -= 1
            self._metrics.watches.dec()
            if not self._of[watcher]:
                del self._of[watcher]

    async def _changes(self, id: str, after: int) -> AsyncIterator[Event]:
        end = time.monotonic() + self._settings.longest_watch_s
        with self._pulse.watching(id) as changed:
            while True:
                changed.clear()
                events = await self._blocking(self._store.events, id, after, limit=PAGE)
                for event in events:
                    after = event.number
                    yield event
                if len(events) == PAGE:
                    continue
                # A rollback adds a change to a request that had ended, so only the last one counts.
                if await self._ended(id, events):
                    return
                await self._wait(changed, end)

    async def _ended(self, id: str, events: list[Event]) -> bool:
        if events:
            return events[-1].state in ENDED
        deletion = await self._blocking(self._store.get, id)
        return deletion.state in ENDED

    async def _wait(self, changed: asyncio.Event, end: float) -> None:
        left = end - time.monotonic()
        if not self._stopping and left > 0:
            try:
                await asyncio.wait_for(changed.wait(), min(left, LOOK_S))
            except TimeoutError:
                pass
        if self._stopping:
            raise ServiceRefusal(Reason.SERVER_STOPPING, "the server stops; resume the watch later")
        if time.monotonic() >= end:
            raise ServiceRefusal(
                Reason.WATCH_TOO_LONG, "the watch has reached its longest duration; resume it"
            )

    def _admit(self, watcher: str) -> None:
        most = self._settings.watches_per_principal
        if self._of[watcher] >= most:
            wish = f"has {most} watches, the most allowed; end one"
            subject = f"principal:{watcher}"
        elif self._of.total() >= self._settings.most_watches:
            wish = f"has {self._settings.most_watches}, the most allowed; use GetDeletion"
            subject = "watches"
        else:
            return
        raise ServiceRefusal(
            Reason.QUOTA_EXCEEDED, f"{subject} {wish}", violations=[Violation(subject, wish)]
        )
