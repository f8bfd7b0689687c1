"""The database of a request store: SQLite in a file, or PostgreSQL at a URL.

Transactions that write take the same locks in the same order on both: first the existing rows that
they change, then the lock of ``Transaction.numbered``, which every writer of events, log rows and
new requests takes. Numbers are therefore assigned in the order in which they become visible: the
log has no gaps, and a watcher that continues after a number misses nothing that commits later.
SQLite has one writer at a time, which locks the whole database from the start (BEGIN IMMEDIATE).
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
FIRST = "1"  # from before the first release; its signed log has numbers instead of names
BUSY_S = 10.0
_RIGHT = "right is sqlite:////folder/requests.db or postgresql+psycopg://user@host/database"
# Number of the advisory lock; all programs on a database share these numbers.
_LOCK = 0x66756E6C


def state_url(folder: Path) -> URL:
    """Return the URL of the store in a state folder; the folder's name may need quoting."""
    return URL.create("sqlite", database=str(folder.resolve() / "requests.db"))


class Transaction:
    """A writing transaction."""

    def __init__(self, connection: Connection) -> None:
        """Wrap a connection on which the transaction has begun."""
        self.connection = connection
        self.execute = connection.execute
        self._ordered = False

    def order(self) -> None:
        """Take the lock of assigning numbers, and hold it until this transaction ends."""
        if not self._ordered and self.connection.dialect.name == "postgresql":
            self.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        self._ordered = True

    def numbered(self, column: Column[int]) -> int:
        """Return the next number of a table's column, 0 if the table has no rows."""
        self.order()
        highest = self.execute(select(func.max(column))).scalar_one()
        return 0 if highest is None else int(highest) + 1

    def insert_new(self, table: Table, **values: object) -> bool:
        """Insert a row unless there is one with the same key.

        Returns:
            Whether the row was inserted.
        """
        dialect = postgresql if self.connection.dialect.name == "postgresql" else sqlite
        statement = dialect.insert(table).values(**values).on_conflict_do_nothing()
        key = next(iter(table.primary_key.columns))
        return self.execute(statement.returning(key)).first() is not None


class Database:
    """A database and its transactions; threads may share it."""

    def __init__(self, url: str | URL, *, create: bool = True, durable: bool = True) -> None:
        """Connect, and upgrade the tables to this version.

        Args:
            url: A URL of SQLAlchemy, as text or as an object.
            create: Whether to create the tables in an empty database, which is otherwise an
                error.
            durable: False for tests only: acknowledged changes may be lost at a power failure.

        Raises:
            StoreError: The store is missing, has a newer version, or cannot be reached.
        """
        parsed = _parsed(url)
        self.name = _shown(parsed)
        if parsed.get_backend_name() == "sqlite":
            file = Path(parsed.database or "")
            if not create and not file.is_file():
                raise StoreError(
                    f"there is no request store {file}; right is the path of an existing one"
                )
            if not file.parent.is_dir():
                raise StoreError(f"there is no folder {file.parent} for the request store")
            _make_private(file)
        self._engine = _engine(parsed, durable)
        self._lock = threading.Lock()
        self._readers = self._engine
        self._writers = self._engine.execution_options(fedunlearn_writes=True)
        if self._engine.dialect.name == "postgresql":
            # All statements of a transaction see one state, as they do in SQLite.
            self._readers = self._engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            # A transaction that waited for a lock must see what was committed in the meantime,
            # whatever the default of the database is.
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
            The connection of the transaction.
        """
        with self._translated_errors(), self._readers.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """Open a writing transaction, which is durable once it has ended.

        Yields:
            The transaction.
        """
        with self._translated_errors(), self._serialized(), self._writers.begin() as connection:
            yield Transaction(connection)

    @contextmanager
    def _serialized(self) -> Iterator[None]:
        """Let the threads of this process write to SQLite in turn; SQLite itself would poll."""
        if self._engine.dialect.name != "sqlite":
            yield
            return
        if not self._lock.acquire(timeout=BUSY_S):
            raise StoreError(f"{self.name} has been busy for over {BUSY_S:g} s; try again")
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except UnicodeEncodeError:
            raise StoreError(
                "a value of the call contains characters that UTF-8 cannot encode"
            ) from None
        except PoolError:
            raise StoreError(
                f"{self.name} is busy: all connections are in use; try again"
            ) from None
        except OperationalError as error:
            cause = _first_line(error)
            if any(sign in cause for sign in ("database is locked", "lock timeout", "deadlock")):
                raise StoreError(
                    f"{self.name} has been busy for over {BUSY_S:g} s; try again"
                ) from error
            if "decode" in cause or "malformed" in cause:
                raise VerificationError(
                    f"{self.name} was changed or is damaged: {cause}"
                ) from error
            raise StoreError(f"{self.name} cannot be used: {cause}") from error
        except DatabaseError as error:
            cause = _first_line(error)
            if "malformed" in cause:
                raise VerificationError(f"{self.name} is damaged: {cause}") from error
            # A violated constraint is a mistake of this program and must not be hidden.
            never_connected = error.statement is None
            if never_connected or error.connection_invalidated or "not a database" in cause:
                raise StoreError(f"{self.name} cannot be used: {cause}") from error
            raise

    def _migrate(self, create: bool) -> None:
        with self.read() as connection:
            found = _version(connection)
        if found == VERSION:
            return
        with self.write() as tx:
            tx.order()
            # Another process may have upgraded the tables in the meantime.
            found = _version(tx.connection)
            if found == VERSION:
                return
            if found is None and not create:
                raise StoreError(f"{self.name} contains no request store")
            if found is not None and (not found.isdigit() or int(found) > int(VERSION)):
                raise StoreError(
                    f"{self.name} has version {found}, and this fedunlearn supports version "
                    f"{VERSION}; right is the fedunlearn that wrote it, or a newer one"
                )
            if found == FIRST:
                raise StoreError(
                    f"{self.name} has version {found}, which has numbers of nodes and classes "
                    "instead of names; right is a new store"
                )
            _upgrade(tx.connection)


def _parsed(url: str | URL) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: the port is not a number
        raise StoreError(f"the request store's URL cannot be read; {_RIGHT}") from None
    backend = parsed.get_backend_name()
    if backend != "sqlite" and "@" in f"{parsed.host}{parsed.database}":
        # The part after the first @ is read as the host, so a password would be printed.
        raise StoreError(
            "the request store's URL has more than one @; write an @ in a name or password as %40"
        )
    if backend not in ("sqlite", "postgresql") or not parsed.database:
        raise StoreError(f"the request store's URL names {backend!r} or no database; {_RIGHT}")
    given = isinstance(url, str) and "?" in url  # also an empty query, which parsing drops
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
    """Create a file that only its owner can read; SQLite would create it readable for all users.

    SQLite gives its journal files the same mode.

    Raises:
        StoreError: The file cannot be created.
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
        # A database may be configured to acknowledge commits before they are on the disk.
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
    """Return the time limits of a connection, unless the URL contains them."""
    given = url.query.get("options", "")
    options = given if isinstance(given, str) else " ".join(given)
    # The last option wins, so the URL's own options come last.
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
    # Further lines may contain values of the store.
    return next(iter(str(error.orig).strip().splitlines()), "the database gives no reason")


def _version(connection: Connection) -> str | None:
    if not connection.dialect.has_table(connection, "alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)


def _upgrade(connection: Connection) -> None:
    # The import is slow, and is needed only when a store is created or upgraded.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "fedunlearn.requests:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, VERSION)
