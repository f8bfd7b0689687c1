"""Quotas: how many requests an owner may have open, and may create in a day."""

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
    """The counts of an owner; they are upper bounds if no other process writes."""

    open: int
    day: int
    read: datetime


class Quotas:
    """Counts requests without reading the store each time; used by one thread."""

    def __init__(self, store: RequestStore, settings: ServiceSettings) -> None:
        """Start with the counts of a store.

        Args:
            store: The request store.
            settings: Settings with the quotas.
        """
        self._store = store
        self._settings = settings
        self._counts: dict[str, _Count] = {}
        # Counted, but not stored yet: the counts of the store do not include them.
        self._waiting: Counter[str] = Counter()

    def take(self, new: NewDeletion) -> None:
        """Count a new request.

        Args:
            new: The request; a repeat of a stored request is always accepted.

        Raises:
            ServiceRefusal: The owner has too many requests.
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
        """Uncount a request that was not stored as a new one."""
        count = self._counts[owner]
        count.open -= 1
        count.day -= 1

    def stored(self) -> None:
        """Note that all counted requests are stored, or were given back."""
        self._waiting.clear()

    def forget(self) -> None:
        """Discard all counts, as it is unknown what was stored; they are read again."""
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
            return f"has {most} open requests, the most allowed; wait until one has ended"
        if count.day >= (most := self._settings.quota_per_day):
            return f"made {most} requests within a day, the most allowed; try again tomorrow"
        return ""
