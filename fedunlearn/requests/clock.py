"""Times: aware datetimes in UTC in the API, whole microseconds since the epoch in the database."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def micros(moment: datetime) -> int:
    """Return microseconds since the epoch.

    Raises:
        ValueError: The time has no time zone.
    """
    if moment.tzinfo is None:
        raise ValueError(
            "a time without a time zone; right is an aware datetime, as datetime.now(UTC)"
        )
    return (moment - _EPOCH) // _MICROSECOND


def moment(micros: int) -> datetime:
    """Return the time that is a number of microseconds after the epoch."""
    return _EPOCH + micros * _MICROSECOND


def stamp(micros: int) -> str:
    """Return a time in the form of RFC 3339, always with six decimal places."""
    return moment(micros).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def months_after(start: datetime, months: int) -> datetime:
    """Return the same day some months later, or the last day of that month."""
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    day = min(start.day, calendar.monthrange(year, month + 1)[1])
    return start.replace(year=year, month=month + 1, day=day)
