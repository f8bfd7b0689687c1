"""Audit entries of refused calls, and the nonces of accepted calls."""

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
        number: Number of the entry, ascending.
        time: Time of the refusal.
        kind: Reason of the refusal, one of the service's reasons.
        key_id: Id of the key that the caller named; empty if none was named.
        peer: Address of the caller.
        detail: Description of the refused call.
    """

    number: int
    time: datetime
    kind: str
    key_id: str
    peer: str
    detail: str


class Guards:
    """The methods of a request store for audit entries and nonces."""

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
        """Record that a call was refused; the oldest entries are deleted if there are too many.

        Args:
            kind: Reason of the refusal.
            key_id: Id of the key that the caller named.
            peer: Address of the caller.
            detail: Description of the call; a long one is cut.
            now: The current time.
            lasting: Kinds of entries that are deleted only if there are no others.
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
            # Counting all entries costs more than storing one.
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
        """Store the nonce of a call until the call expires.

        Args:
            key_id: Id of the caller's key.
            nonce: Nonce of the call.
            expires: Time at which the call's statement expires.
            now: The current time.

        Returns:
            False if the nonce was stored before.
        """
        with self._database.write() as tx:
            # Without this order, two simultaneous deletions could wait for each other's rows.
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
