"""What was refused, and which calls were seen already."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import case, delete, func, insert, select

from fedunlearn.requests.clock import micros, moment
from fedunlearn.requests.database import Database, Transaction
from fedunlearn.requests.rows import storable
from fedunlearn.requests.tables import AUDIT, NONCES

MOST_AUDITS = 100_000
MOST_DETAIL = 500


@dataclass(frozen=True)
class Audit:
    """A call that was refused.

    Attributes:
        number: Ascending.
        time: When.
        kind: Reason of the refusal, as the service names it.
        key_id: Of the caller, where one was named.
        peer: Address of the caller.
        detail: What was asked for.
    """

    number: int
    time: datetime
    kind: str
    key_id: str
    peer: str
    detail: str


class Guards:
    """What a request store does about callers who may not, or call twice."""

    _database: Database
    most_audits: int = MOST_AUDITS

    def audit(
        self,
        kind: str,
        *,
        key_id: str = "",
        peer: str = "",
        detail: str = "",
        now: datetime,
        lasting: Collection[str] = (),
    ) -> None:
        """Keep that a call was refused; the oldest make room where there are too many.

        Args:
            kind: Reason of the refusal.
            key_id: Of the caller.
            peer: Address of the caller.
            detail: What was asked for, cut where it is long.
            now: The time.
            lasting: Kinds that make room only where there are no others.
        """
        with self._database.write() as tx:
            number = tx.numbered(AUDIT.c.number)
            tx.execute(
                insert(AUDIT).values(
                    number=number,
                    time=micros(now),
                    kind=_clipped(kind),
                    key_id=_clipped(key_id),
                    peer=_clipped(peer),
                    detail=_clipped(detail),
                )
            )
            # Counting them costs more than keeping one.
            if number % max(1, self.most_audits // 100) == 0:
                _make_room(tx, number, self.most_audits, lasting)

    def audits(self, limit: int = 100) -> list[Audit]:
        """Return the last refusals, the newest first."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(AUDIT).order_by(AUDIT.c.number.desc()).limit(limit)
            ).mappings()
            return [
                Audit(
                    row["number"],
                    moment(row["time"]),
                    row["kind"],
                    row["key_id"],
                    row["peer"],
                    row["detail"],
                )
                for row in rows
            ]

    def take_nonce(self, key_id: str, nonce: bytes, expires: datetime, *, now: datetime) -> bool:
        """Mark a call as seen, until it could not be made any more.

        Args:
            key_id: Of the caller.
            nonce: Of the call.
            expires: When the call's statement does.
            now: The time.

        Returns:
            False where it was seen before.
        """
        with self._database.write() as tx:
            # Two that clean up at once could wait for each other's rows.
            tx.order()
            tx.execute(delete(NONCES).where(NONCES.c.expires < micros(now)))
            return tx.insert_new(NONCES, key_id=key_id, nonce=nonce, expires=micros(expires))


def _make_room(tx: Transaction, newest: int, most: int, lasting: Collection[str]) -> None:
    surplus = tx.execute(select(func.count()).select_from(AUDIT)).scalar_one() - most
    if surplus > 0:
        goes_last = case((AUDIT.c.kind.in_(lasting), 1), else_=0)
        oldest = select(AUDIT.c.number).where(AUDIT.c.number != newest)
        oldest = oldest.order_by(goes_last, AUDIT.c.number).limit(surplus)
        tx.execute(delete(AUDIT).where(AUDIT.c.number.in_(oldest)))


def _clipped(text: str) -> str:
    return storable(text[:MOST_DETAIL])
