"""Figures for operators: what waits, since when, and how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select

from fedunlearn.requests.clock import micros, moment
from fedunlearn.requests.database import Database
from fedunlearn.requests.deletion import OPEN, State
from fedunlearn.requests.tables import DELETIONS, EVENTS


@dataclass(frozen=True)
class Statistics:
    """Figures of a request store.

    Attributes:
        open: Requests that have not ended, by state.
        oldest: When the oldest of them was made.
        overdue: How many of them are past their due date.
        near_due: How many are not, but soon will be.
        failures: How often a request has failed, rolled back ones included.
        completions: How many requests have succeeded.
        completion_seconds: From making to success, summed over these.
    """

    open: Mapping[State, int]
    oldest: datetime | None
    overdue: int
    near_due: int
    failures: int
    completions: int
    completion_seconds: float


class Figures:
    """What a request store says of itself."""

    _database: Database

    def statistics(self, now: datetime, near: timedelta = timedelta(days=7)) -> Statistics:
        """Return the figures at a time.

        Args:
            now: The time.
            near: From how long before its due date on a request is near it.
        """
        time = micros(now)
        waits = DELETIONS.c.state.in_([state.value for state in OPEN])
        count = func.count()
        with self._database.read() as connection:
            states = connection.execute(
                select(DELETIONS.c.state, count, func.min(DELETIONS.c.created))
                .where(waits)
                .group_by(DELETIONS.c.state)
            ).all()
            overdue = connection.execute(
                select(count).where(waits, DELETIONS.c.due < time)
            ).scalar_one()
            near_due = connection.execute(
                select(count).where(
                    waits, DELETIONS.c.due >= time, DELETIONS.c.due < micros(now + near)
                )
            ).scalar_one()
            failures = connection.execute(
                select(count).where(EVENTS.c.state == State.FAILED.value)
            ).scalar_one()
            done, took = connection.execute(
                select(count, func.sum(DELETIONS.c.ended - DELETIONS.c.created)).where(
                    DELETIONS.c.state == State.SUCCEEDED.value
                )
            ).one()
        open_states = {state: 0 for state in State if state in OPEN}
        open_states.update({State(state): number for state, number, _ in states})
        oldest = min((created for _, _, created in states), default=None)
        return Statistics(
            open=open_states,
            oldest=None if oldest is None else moment(oldest),
            overdue=overdue,
            near_due=near_due,
            failures=failures,
            completions=done,
            completion_seconds=float(took or 0) / 1e6,
        )
