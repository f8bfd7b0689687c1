"""How many requests an owner may have open, and make in a day."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta

from fedunlearn.requests.deletion import NewDeletion
from fedunlearn.requests.store import RequestStore
from fedunlearn.service.errors import Reason, ServiceRefusal, Violation
from fedunlearn.service.service_settings import ServiceSettings

DAY = timedelta(days=1)
FRESH = timedelta(seconds=10)


@dataclass
class _Count:
    """Of an owner: at least as many as there are, if nobody else writes."""

    open: int
    day: int
    read: datetime


class Quotas:
    """Counts without asking the store each time; used by one thread."""

    def __init__(self, store: RequestStore, settings: ServiceSettings) -> None:
        """Count what a store has.

        Args:
            store: Of the requests.
            settings: The quotas.
        """
        self._store = store
        self._settings = settings
        self._counts: dict[str, _Count] = {}
        # Counted in, but not stored yet: what the store says does not hold them.
        self._waiting: Counter[str] = Counter()

    def take(self, new: NewDeletion) -> None:
        """Count a request in.

        Args:
            new: It may be the repeat of one that is stored, which is always let through.

        Raises:
            ServiceRefusal: The owner has too many.
        """
        count = self._counts.get(new.owner)
        if count is None or new.received - count.read > FRESH or self._exceeded(count):
            count = self._counts[new.owner] = self._read(new.owner, new.received)
            violation = self._exceeded(count)
            if violation and self._store.find(new.owner, new.request_id) is None:
                raise ServiceRefusal(
                    Reason.QUOTA_EXCEEDED,
                    f"{new.owner} {violation}",
                    violations=[Violation(f"owner:{new.owner}", violation)],
                )
        count.open += 1
        count.day += 1
        self._waiting[new.owner] += 1

    def give_back(self, owner: str) -> None:
        """Count one out that was not stored anew."""
        count = self._counts[owner]
        count.open -= 1
        count.day -= 1

    def stored(self) -> None:
        """Know that all which were counted in are stored, or were given back."""
        self._waiting.clear()

    def forget(self) -> None:
        """Count anew: it is not known what was stored."""
        self._counts.clear()
        self._waiting.clear()

    def _read(self, owner: str, now: datetime) -> _Count:
        more = self._waiting[owner]
        return _Count(
            open=self._store.count_open(owner) + more,
            day=self._store.count_since(owner, now - DAY) + more,
            read=now,
        )

    def _exceeded(self, count: _Count) -> str:
        if count.open >= (most := self._settings.quota_open):
            return f"has {most} open requests, as many as may be; wait until one has ended"
        if count.day >= (most := self._settings.quota_per_day):
            return f"made {most} requests within a day, as many as may be; try again tomorrow"
        return ""
