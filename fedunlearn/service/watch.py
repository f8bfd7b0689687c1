"""Watching a request: every change in order, from a given one on, until the request has ended."""

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
LOOK_S = 30.0  # also without having been woken


class Watches:
    """All calls that watch; lives on the server's loop."""

    def __init__(
        self,
        store: RequestStore,
        settings: ServiceSettings,
        pulse: Pulse,
        blocking: Blocking,
        metrics: Metrics,
    ) -> None:
        """Have none yet.

        Args:
            store: To read events from.
            settings: How many there may be, and for how long.
            pulse: Wakes them.
            blocking: Runs what blocks.
            metrics: Count them.
        """
        self._store = store
        self._settings = settings
        self._pulse = pulse
        self._blocking = blocking
        self._metrics = metrics
        self._of: Counter[str] = Counter()
        self._stopping = False

    def stop(self) -> None:
        """End all of them; their clients take them up again elsewhere, or later."""
        self._stopping = True
        self._pulse.wake_all()

    async def events(self, deletion: Deletion, watcher: str, after: int) -> AsyncIterator[Event]:
        """Tell the changes of a request.

        Args:
            deletion: The request.
            watcher: Who watches.
            after: The last change that they have seen.

        Yields:
            One change after the other; the last is the request's end.

        Raises:
            ServiceRefusal: There are too many watches, the number is of no change yet, the server
                stops, or the watch has lasted long enough.
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
                # A rollback gives a request that had ended another change, so the last counts.
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
            raise ServiceRefusal(Reason.SERVER_STOPPING, "the server stops; watch on later")
        if time.monotonic() >= end:
            raise ServiceRefusal(
                Reason.WATCH_TOO_LONG, "the watch has lasted long enough; take it up again"
            )

    def _admit(self, watcher: str) -> None:
        most = self._settings.watches_per_principal
        if self._of[watcher] >= most:
            wish = f"has {most} watches, as many as may be; end one"
            subject = f"principal:{watcher}"
        elif self._of.total() >= self._settings.most_watches:
            wish = f"there are {self._settings.most_watches} watches; ask with GetDeletion"
            subject = "watches"
        else:
            return
        raise ServiceRefusal(
            Reason.QUOTA_EXCEEDED, f"{subject} {wish}", violations=[Violation(subject, wish)]
        )
