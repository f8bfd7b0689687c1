"""The request store: all data that must outlive the processes of a deletion service."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Self

from sqlalchemy import Connection
from sqlalchemy.engine import URL

from fedunlearn.requests.database import Database, state_url
from fedunlearn.requests.decisions import Decisions
from fedunlearn.requests.filing import Filing
from fedunlearn.requests.guards import MOST_AUDITS, Guards
from fedunlearn.requests.keys import PrivateKey
from fedunlearn.requests.leases import Leases
from fedunlearn.requests.model_swaps import Removals
from fedunlearn.requests.principals import Principals
from fedunlearn.requests.statistics import Figures

__all__ = ["RequestStore", "state_url"]


class RequestStore(Principals, Filing, Decisions, Leases, Removals, Guards, Figures):
    """Principals, requests, jobs, models and the log, in SQLite or PostgreSQL.

    Threads may share an object; several processes may open the same store. A method's changes are
    durable when it returns. Every method can raise a ``StoreError``, which means that the database
    is busy or cannot be reached; the call may be repeated.

    Attributes:
        issuer: Private key that signs the log; without it, methods that append to the log raise.
    """

    def __init__(
        self,
        database: Database,
        *,
        issuer: PrivateKey | None = None,
        most_audits: int = MOST_AUDITS,
    ) -> None:
        """Wrap a database.

        Args:
            database: Database with tables of this version.
            issuer: Private key that signs the log.
            most_audits: Number of audit entries to retain; up to a hundredth more are stored.
        """
        self._database = database
        self.issuer = issuer
        self.most_audits = most_audits

    @classmethod
    def open(
        cls,
        url: str | URL,
        *,
        issuer: PrivateKey | None = None,
        create: bool = True,
        most_audits: int = MOST_AUDITS,
        durable: bool = True,
    ) -> Self:
        """Return the store at a URL, upgraded to this version if it is older.

        Args:
            url: URL such as "sqlite:////folder/requests.db" or
                "postgresql+psycopg://user@host/database", or the result of ``state_url``.
            issuer: Private key that signs the log.
            create: Whether to create a missing store, which is otherwise an error.
            most_audits: Number of audit entries to retain; up to a hundredth more are stored.
            durable: False for tests only: acknowledged changes may be lost at a power failure.

        Raises:
            StoreError: The store is missing, has a newer version, or cannot be reached.
        """
        database = Database(url, create=create, durable=durable)
        return cls(database, issuer=issuer, most_audits=most_audits)

    def snapshot(self) -> AbstractContextManager[Connection]:
        """Open a transaction that sees one state of all tables, for checks of many tables."""
        return self._database.read()

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def __enter__(self) -> Self:
        """Return the store, which is closed at the end of the block."""
        return self

    def __exit__(self, *failure: object) -> None:
        """Close all connections."""
        self.close()
