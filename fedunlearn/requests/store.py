"""The request store: everything that must outlive the processes of a deletion service."""

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

    Threads may share it, and so may processes, each with its own. What a method has written is on
    the disk when it returns. A ``StoreError`` from any method says that the database is busy or
    cannot be reached; the call may be repeated.

    Attributes:
        issuer: Key that signs the log; without it nothing that belongs into the log can be done.
    """

    def __init__(
        self,
        database: Database,
        *,
        issuer: PrivateKey | None = None,
        most_audits: int = MOST_AUDITS,
    ) -> None:
        """Use a database.

        Args:
            database: Whose tables are of this version.
            issuer: Key that signs the log.
            most_audits: How many refusals are kept; up to a hundredth more.
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
        """Return the store at a URL, brought to this version where it is older.

        Args:
            url: As "sqlite:////folder/requests.db" or "postgresql+psycopg://user@host/database", or
                what ``state_url`` returns.
            issuer: Key that signs the log.
            create: Make it where there is none; otherwise that is an error.
            most_audits: How many refusals are kept; up to a hundredth more.
            durable: False for tests alone: a power cut may take what was acknowledged.

        Raises:
            StoreError: It is missing, of a newer version, or cannot be reached.
        """
        database = Database(url, create=create, durable=durable)
        return cls(database, issuer=issuer, most_audits=most_audits)

    def snapshot(self) -> AbstractContextManager[Connection]:
        """Open a transaction that sees one state of all tables, for checks that read many."""
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
