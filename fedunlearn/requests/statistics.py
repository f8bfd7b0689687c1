"""Statistics for operators: open requests, their age, and the durations of completed ones."""

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
    """Statistics of a request store.

    Attributes:
        open: Number of open requests by state.
        oldest: Time at which the oldest open request was created; None if there is none.
        overdue: Number of open requests past their due date.
        near_due: Number of open requests that are nearly due.
        failures: Number of failures of requests, including rollbacks.
        completions: Number of requests that have succeeded.
        completion_seconds: Time from creation to success in seconds, summed over these requests.
    """

    open: Mapping[State, int]
    oldest: datetime | None
    overdue: int
    near_due: int
    failures: int
    completions: int
    completion_seconds: float


class Figures:
    """The method of a request store for statistics."""

    _database: Database

    def statistics(self, now: datetime, near: timedelta = timedelta(days=7)) -> Statistics:
        """Return the statistics at a time.

        Args:
            now: The current time.
            near: Time before the due date from which a request counts as nearly due.
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
