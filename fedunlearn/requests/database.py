"""Where a request store's tables are: SQLite in a file, or PostgreSQL by URL.

Transactions that write take the same locks in the same order on both: first the rows that are
there and are to be changed, then ``Transaction.numbered``, which every writer of events, log rows
and new requests waits for. Numbers are thus given in the order in which they become visible: the
log has no gaps, and who watches from a number on misses nothing that commits later. SQLite has one
writer at a time, which holds all of it from the start (BEGIN IMMEDIATE).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Column, Connection, Engine, Table, create_engine, event, func, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    NoSuchModuleError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolError

from fedunlearn.errors import StoreError, VerificationError

VERSION = "2"
FIRST = "1"  # before any release; its signed log cannot be brought to names
BUSY_S = 10.0
_RIGHT = "right is sqlite:////folder/requests.db or postgresql+psycopg://user@host/database"
# Of advisory locks, which are numbers that all programs on a database share.
_LOCK = 0x66756E6C


def state_url(folder: Path) -> URL:
    """Return the URL of the store in a state folder, whatever that is called."""
    return URL.create("sqlite", database=str(folder.resolve() / "requests.db"))


class Transaction:
    """A transaction that may write."""

    def __init__(self, connection: Connection) -> None:
        """Use a connection on which the transaction has begun."""
        self.connection = connection
        self.execute = connection.execute
        self._ordered = False

    def order(self) -> None:
        """Wait until no other transaction gives numbers, and let none until this one ends."""
        if not self._ordered and self.connection.dialect.name == "postgresql":
            self.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        self._ordered = True

    def numbered(self, column: Column[int]) -> int:
        """Return the next number of a table's column, from 0 where it has no rows."""
        self.order()
        highest = self.execute(select(func.max(column))).scalar_one()
        return 0 if highest is None else int(highest) + 1

    def insert_new(self, table: Table, **values: object) -> bool:
        """Insert a row unless there is one with its key.

        Returns:
            Whether it was inserted.
        """
        dialect = postgresql if self.connection.dialect.name == "postgresql" else sqlite
        statement = dialect.insert(table).values(**values).on_conflict_do_nothing()
        key = next(iter(table.primary_key.columns))
        return self.execute(statement.returning(key)).first() is not None


class Database:
    """A database and its transactions; threads may share it."""

    def __init__(self, url: str | URL, *, create: bool = True, durable: bool = True) -> None:
        """Connect, and bring the tables to this version.

        Args:
            url: A text that SQLAlchemy reads, or a URL that is made of its parts.
            create: Make the tables in an empty database; otherwise that is an error.
            durable: False for tests alone: a power cut may take what was acknowledged.

        Raises:
            StoreError: It is missing, of a newer version, or cannot be reached.
        """
        parsed = _parsed(url)
        self.name = _shown(parsed)
        if parsed.get_backend_name() == "sqlite":
            file = Path(parsed.database or "")
            if not create and not file.is_file():
                raise StoreError(f"there is no request store {file}; right is where one was made")
            if not file.parent.is_dir():
                raise StoreError(f"there is no folder {file.parent} for the request store")
            _make_private(file)
        self._engine = _engine(parsed, durable)
        self._lock = threading.Lock()
        self._readers = self._engine
        self._writers = self._engine.execution_options(fedunlearn_writes=True)
        if self._engine.dialect.name == "postgresql":
            # Several statements see one state, as they do in SQLite.
            self._readers = self._engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            # Who has waited for a lock sees what was committed meanwhile, whatever is set there.
            self._writers = self._writers.execution_options(isolation_level="READ COMMITTED")
        try:
            self._migrate(create)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that sees one state of the database.

        Yields:
            Its connection.
        """
        with self._speaking(), self._readers.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """Open a transaction that is on the disk once it has ended.

        Yields:
            The transaction.
        """
        with self._speaking(), self._turn(), self._writers.begin() as connection:
            yield Transaction(connection)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Let this process's threads write to SQLite in turn, which else sleeps and tries again."""
        if self._engine.dialect.name != "sqlite":
            yield
            return
        if not self._lock.acquire(timeout=BUSY_S):
            raise StoreError(f"{self.name} is busy for over {BUSY_S:g} s; try again")
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            yield
        except UnicodeEncodeError:
            raise StoreError("what was asked for is no text that UTF-8 can hold") from None
        except PoolError:
            raise StoreError(f"{self.name} is busy: all its connections are; try again") from None
        except OperationalError as error:
            said = _first_line(error)
            busy = "database is locked" in said or "lock timeout" in said or "deadlock" in said
            if busy:
                raise StoreError(f"{self.name} is busy for over {BUSY_S:g} s; try again") from error
            if "decode" in said or "malformed" in said:
                raise VerificationError(f"{self.name} was changed or is damaged: {said}") from error
            raise StoreError(f"{self.name} cannot be used: {said}") from error
        except DatabaseError as error:
            said = _first_line(error)
            if "malformed" in said:
                raise VerificationError(f"{self.name} is damaged: {said}") from error
            # A broken rule of the tables is a mistake of this program and is not hidden.
            never_connected = error.statement is None
            if never_connected or error.connection_invalidated or "not a database" in said:
                raise StoreError(f"{self.name} cannot be used: {said}") from error
            raise

    def _migrate(self, create: bool) -> None:
        with self.read() as connection:
            found = _version(connection)
        if found == VERSION:
            return
        with self.write() as tx:
            tx.order()
            # Another process may have done it in between.
            found = _version(tx.connection)
            if found == VERSION:
                return
            if found is None and not create:
                raise StoreError(f"{self.name} holds no request store")
            if found is not None and (not found.isdigit() or int(found) > int(VERSION)):
                raise StoreError(
                    f"{self.name} has version {found} and this fedunlearn knows {VERSION}; "
                    "right is the fedunlearn that wrote it, or a newer one"
                )
            if found == FIRST:
                raise StoreError(
                    f"{self.name} has version {found}, which numbers nodes and classes where this "
                    "fedunlearn names them; right is a new store"
                )
            _upgrade(tx.connection)


def _parsed(url: str | URL) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the latter for a port that is no number
        raise StoreError(f"the request store's URL cannot be read; {_RIGHT}") from None
    backend = parsed.get_backend_name()
    if backend != "sqlite" and "@" in f"{parsed.host}{parsed.database}":
        # What follows the first @ is taken for the host, and would be printed.
        raise StoreError(
            "the request store's URL has an @ too many; write one in a name or password as %40"
        )
    if backend not in ("sqlite", "postgresql") or not parsed.database:
        raise StoreError(f"the request store's URL names {backend!r} or no database; {_RIGHT}")
    given = isinstance(url, str) and "?" in url  # also an empty query, which is lost in reading
    if backend == "sqlite" and (
        given or parsed.query or parsed.database == ":memory:" or "\0" in parsed.database
    ):
        raise StoreError(f"the request store's URL must name a file, without options; {_RIGHT}")
    return parsed


def _shown(url: URL) -> str:
    """Return a URL for messages: a file's path, or a server's address without any secret."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    query = {key: value for key, value in url.query.items() if "pass" not in key.lower()}
    return url.set(query=query).render_as_string(hide_password=True)


def _make_private(file: Path) -> None:
    """Make a file that only its owner can read, before SQLite makes it for everybody.

    SQLite gives the files beside it the same mode.

    Raises:
        StoreError: It cannot be made.
    """
    if file.exists():
        return
    try:
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreError(f"{file} cannot be written: {error.strerror}") from None


def _engine(url: URL, durable: bool) -> Engine:
    try:
        if url.get_backend_name() == "sqlite":
            return _sqlite(url, durable)
        engine = create_engine(
            url,
            pool_size=8,
            max_overflow=24,
            pool_timeout=BUSY_S,
            pool_pre_ping=True,
            connect_args=_waiting(url),
        )
    except (ImportError, NoSuchModuleError):
        if url.get_backend_name() == "sqlite":
            raise StoreError(f"there is no driver {url.drivername!r}; {_RIGHT}") from None
        raise StoreError(
            "PostgreSQL needs a driver; right is pip install 'fedunlearn[postgresql]' and a URL "
            "that begins with postgresql+psycopg://"
        ) from None

    @event.listens_for(engine, "connect")
    def connect(connection: DBAPIConnection, _: object) -> None:
        # A database may be set to acknowledge what is not on the disk.
        cursor = connection.cursor()
        cursor.execute(
            "SELECT set_config('synchronous_commit', 'on', false) "
            "WHERE current_setting('synchronous_commit') = 'off'"
        )
        cursor.close()
        connection.commit()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if not durable and connection.get_execution_options().get("fedunlearn_writes"):
            connection.exec_driver_sql("SET LOCAL synchronous_commit = off")

    return engine


def _waiting(url: URL) -> dict[str, object]:
    """Return how long a connection waits, where the URL does not say it itself."""
    given = url.query.get("options", "")
    options = given if isinstance(given, str) else " ".join(given)
    # What comes later holds, so that the URL's own comes last.
    wait: dict[str, object] = {"options": f"-c lock_timeout={int(BUSY_S * 1000)} {options}".strip()}
    if "connect_timeout" not in url.query:
        wait["connect_timeout"] = int(BUSY_S)
    return wait


def _sqlite(url: URL, durable: bool) -> Engine:
    engine = create_engine(
        url,
        pool_size=8,
        max_overflow=24,
        pool_timeout=BUSY_S,
        connect_args={"timeout": BUSY_S, "isolation_level": None, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def connect(connection: DBAPIConnection, _: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("fedunlearn_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _first_line(error: DatabaseError) -> str:
    # Further lines may quote values.
    return next(iter(str(error.orig).strip().splitlines()), "it does not say why")


def _version(connection: Connection) -> str | None:
    if not connection.dialect.has_table(connection, "alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)


def _upgrade(connection: Connection) -> None:
    # Takes a while to import, and is needed once in a store's life.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "fedunlearn.requests:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, VERSION)
