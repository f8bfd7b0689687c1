"""Request stores for tests: SQLite in a temporary folder, and a PostgreSQL of the tests' own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedunlearn.requests.database import Database, Transaction
from fedunlearn.requests.tables import METADATA

KINDS = ("sqlite", "postgresql")


class Postgres:
    """A server that this process has started, on a Unix socket in its folder."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries = binaries
        self._folder = folder
        self._databases = 0

    def start(self) -> None:
        data, log = str(self._folder / "data"), str(self._folder / "log")
        self._run("initdb", "-D", data, "-U", "tests", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = (
            f"-c listen_addresses='' -c unix_socket_directories='{self._folder}' -c fsync=off "
            "-c shared_buffers=16MB -c max_connections=50"
        )
        self._run("pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "-t", "60", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-m", "immediate", "-w", "stop")

    def new_database(self) -> str:
        """Return the URL of an empty database."""
        self._databases += 1
        name = f"store{self._databases}"
        self._run("createdb", "-h", str(self._folder), "-U", "tests", name)
        return f"postgresql+psycopg://tests@/{name}?host={self._folder}"

    def _run(self, program: str, *arguments: str) -> None:
        # The server refuses to run as root.
        become = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        # Not to a pipe, which the server would inherit and keep open.
        with tempfile.TemporaryFile() as said:
            done = subprocess.run(
                [*become, str(self._binaries / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd="/",
                timeout=120,
            )
            said.seek(0)
            assert done.returncode == 0, said.read().decode()


def _binaries() -> Path | None:
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return installed[-1].parent if installed else None


@contextmanager
def postgres() -> Iterator[Postgres | str]:
    """Start PostgreSQL, or yield why there is none."""
    binaries = _binaries()
    if binaries is None:
        yield "PostgreSQL is not installed"
        return
    if os.geteuid() == 0:
        try:
            owner = pwd.getpwnam("postgres").pw_uid
        except KeyError:
            yield "PostgreSQL does not run as root, and there is no user postgres"
            return
    # The path of a socket has at most 107 bytes, so not in pytest's folders.
    with tempfile.TemporaryDirectory(prefix="fedunlearn-", dir="/tmp") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            os.chown(folder, owner, -1)
        server = Postgres(binaries, folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()


class Places:
    """Where stores can be made."""

    def __init__(self, server: Postgres | str) -> None:
        self._server = server
        self._shared: str | None = None

    def new_url(self, kind: str, folder: Path) -> str:
        """Return the URL of a place without a store; skips where there is no PostgreSQL."""
        if kind == "sqlite":
            return f"sqlite:///{folder / 'requests.db'}"
        if isinstance(self._server, str):
            pytest.skip(self._server)
        return self._server.new_database()

    def empty_url(self, kind: str, folder: Path) -> str:
        """Return the URL of a place without rows; of PostgreSQL always the same one, emptied."""
        if kind == "sqlite":
            return self.new_url(kind, folder)
        if self._shared is None:
            self._shared = self.new_url(kind, folder)
        empty(self._shared)
        return self._shared


def empty(url: str) -> None:
    """Take all rows out of a store."""
    database = Database(url, durable=False)
    with database.write() as tx:
        empty_tables(tx)
    database.close()


def empty_tables(tx: Transaction) -> None:
    """Take all rows out of the tables; few of them are quicker to delete than to truncate."""
    for table in reversed(METADATA.sorted_tables):
        tx.execute(table.delete())
