"""What was refused, and which calls were seen already."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, insert, select

from fedunlearn.requests.clock import micros, moment
from fedunlearn.requests.database import Database
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
        self, kind: str, *, key_id: str = "", peer: str = "", detail: str = "", now: datetime
    ) -> None:
        """Keep that a call was refused; the oldest make room where there are too many.

        Args:
            kind: Reason of the refusal.
            key_id: Of the caller.
            peer: Address of the caller.
            detail: What was asked for, cut where it is long.
            now: The time.
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
            tx.execute(delete(AUDIT).where(AUDIT.c.number <= number - self.most_audits))

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


def _clipped(text: str) -> str:
    return storable(text[:MOST_DETAIL])
