"""Where request stores can be, of which version, and what is said where they cannot."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from fedunlearn.errors import StoreError, VerificationError
from fedunlearn.requests import database
from fedunlearn.requests.database import VERSION, Database, state_url
from fedunlearn.requests.ledger import verify_ledger
from fedunlearn.requests.store import RequestStore
from fedunlearn.requests.tables import METADATA
from fedunlearn.service.state import open_state
from tests.deletions import ISSUER, START, made, populate
from tests.stores import KINDS, Places


@pytest.mark.parametrize("kind", KINDS)
def test_the_migrations_make_the_tables(kind: str, places: Places, tmp_path: Path) -> None:
    opened = Database(places.new_url(kind, tmp_path), durable=False)
    with opened.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []
    opened.close()
    config = Config()
    config.set_main_option("script_location", "fedunlearn.requests:migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [VERSION]


@pytest.mark.parametrize("kind", KINDS)
def test_a_newer_store_is_refused(kind: str, places: Places, tmp_path: Path) -> None:
    url = places.new_url(kind, tmp_path)
    with pytest.raises(StoreError, match=r"there is no request store|contains no request store"):
        RequestStore.open(url, create=False)
    opened = Database(url, durable=False)
    with opened.write() as tx:
        tx.execute(text("UPDATE alembic_version SET version_num = '3'"))
    opened.close()
    with pytest.raises(
        StoreError, match=r"has version 3, and this fedunlearn supports version 2; right is"
    ):
        RequestStore.open(url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("requests.db", "URL cannot be read; right is sqlite:///"),
        ("mysql://host/db", "names 'mysql' or no database; right is"),
        ("sqlite://", "names 'sqlite' or no database; right is"),
        ("sqlite:////nowhere/at/all.db", "there is no folder /nowhere/at"),
        ("postgresql+psycopg://nobody@/db?host=/nowhere", r"db\?host=.* cannot be used"),
        ("postgresql+pg8000://nobody@/db?host=/nowhere", "PostgreSQL needs a driver"),
        ("postgresql+psycopg://nobody@/db?host=/nowhere&colour=red", "invalid connection option"),
        ("postgresql+psycopg://nobody@host:port/db", "URL cannot be read; right is"),
        ("sqlite+other:////tmp/requests.db", r"no driver 'sqlite\+other'; right is"),
        ("sqlite:///:memory:", "must name a file"),
        ("sqlite:////tmp/requests.db?mode=memory", "must name a file"),
        ("sqlite:////tmp/fed?1/requests.db", "must name a file, without options"),
        ("sqlite:////tmp/requests.db?", "must name a file, without options"),
        ("sqlite:////tmp/a\0b.db", "must name a file"),
        (
            "postgresql+psycopg://me:hid@den@host/db",
            "more than one @; write an @ in a name or pass",
        ),
        ("postgresql+psycopg://me:hid@d/en@host/db", "more than one @"),
    ],
)
def test_urls_that_lead_nowhere(url: str, message: str) -> None:
    with pytest.raises(StoreError, match=message) as raised:
        RequestStore.open(url)
    assert "\n" not in str(raised.value)
    assert "den" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://me:secret@/db?host=/nowhere",
        "postgresql+psycopg://me:s%40secret@/db?host=/nowhere",
        "postgresql+psycopg://me:se@secret@127.0.0.1:1/db",
        "postgresql+psycopg://me:s/secret:@127.0.0.1:1/db",
        "postgresql+psycopg://me@127.0.0.1:1/db?password=secret",
        "postgresql+psycopg://me@127.0.0.1:1/db?sslpassword=secret&sslmode=disable",
    ],
)
def test_passwords_are_not_said(url: str) -> None:
    with pytest.raises(StoreError) as raised:
        RequestStore.open(url)
    assert "secret" not in str(raised.value)


def test_options_of_a_url_hold(places: Places, tmp_path: Path) -> None:
    url = places.new_url("postgresql", tmp_path)
    plain = Database(url, durable=False)
    with plain.write() as tx:
        tx.connection.exec_driver_sql("CREATE SCHEMA ward")
    plain.close()
    options = "options=-c%20search_path%3Dward%20-c%20lock_timeout%3D1234&connect_timeout=3"
    opened = Database(f"{url}{'&' if '?' in url else '?'}{options}", durable=False)
    with opened.write() as tx:
        shown = [tx.execute(text(f"SHOW {name}")).scalar_one() for name in _GIVEN]
        of_tables = text("SELECT schemaname FROM pg_tables WHERE tablename = 'deletions'")
        assert tx.execute(of_tables).scalars().all() == ["public", "ward"]
    opened.close()
    assert shown == list(_GIVEN.values())


_GIVEN = {"search_path": "ward", "lock_timeout": "1234ms"}

FOLDERS = [
    *("fed?1", "fed#1", "a b", "a%20b", "a+b", "file:x", ":memory:", "sqlite:", "~", "ü", "x;y"),
    *("a\nb", "'q\"", "--state", "%2e%2e", "?mode=memory", "a&b=c", " ", "$HOME", "a\\b", "[x]"),
]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_state_folder_holds_all_of_its_files_for_its_owner_alone(
    name: str, tmp_path: Path
) -> None:
    around = tmp_path / "around"
    around.mkdir()
    folder = around / name
    with open_state(folder) as state:
        state.store.register_key("a", "owner", ISSUER.public, ["1"], now=START)
        made_files = {path.name for path in folder.iterdir()}
    assert [path.name for path in around.iterdir()] == [name]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {"requests.db", "issuer.key", "requests.db-wal"} <= made_files
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path.name
    with open_state(folder, create=False) as state:
        assert [one.name for one in state.store.principals()] == ["a"]


def test_folders_of_like_names_are_two_stores(tmp_path: Path) -> None:
    for name in FOLDERS:
        with open_state(tmp_path / name) as state:
            state.store.register_key(repr(name)[:50], "operator", ISSUER.public, now=START)
    for name in FOLDERS:
        with open_state(tmp_path / name, create=False) as state:
            assert [one.name for one in state.store.principals()] == [repr(name)[:50]]


def test_a_file_that_is_no_store(tmp_path: Path) -> None:
    path = tmp_path / "requests.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="file is not a database"):
        RequestStore.open(state_url(tmp_path))
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE notes (line TEXT)")
    with pytest.raises(StoreError, match="contains no request store"):
        RequestStore.open(f"sqlite:///{tmp_path / 'other.db'}", create=False)


def test_sqlite_is_durable(tmp_path: Path) -> None:
    opened = Database(state_url(tmp_path))
    with opened.write() as tx:
        run = tx.connection.exec_driver_sql
        found = [run(f"PRAGMA {name}").scalar_one() for name in _PRAGMAS]
    opened.close()
    assert found == list(_PRAGMAS.values())


def test_postgresql_is_durable_whatever_is_set_there(places: Places, tmp_path: Path) -> None:
    url = places.new_url("postgresql", tmp_path)
    first = Database(url, durable=False)
    with first.write() as tx:
        name = tx.execute(text("SELECT current_database()")).scalar_one()
        for setting in ("synchronous_commit = off", "default_transaction_isolation = serializable"):
            tx.connection.exec_driver_sql(f'ALTER DATABASE "{name}" SET {setting}')
    first.close()
    opened = Database(url)
    with opened.write() as tx:
        shown = [tx.execute(text(f"SHOW {name}")).scalar_one() for name in _SETTINGS]
    opened.close()
    assert shown == list(_SETTINGS.values())


_SETTINGS = {"synchronous_commit": "on", "transaction_isolation": "read committed"}
_PRAGMAS = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}


def test_a_busy_store_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.1)
    with RequestStore.open(state_url(tmp_path), issuer=ISSUER, durable=False) as store:
        populate(store)
        other = sqlite3.connect(tmp_path / "requests.db", isolation_level=None)
        with closing(other):
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match=r"requests\.db has been busy for over 0\.1 s"):
                made(store)
            assert store.list() == []
            other.execute("ROLLBACK")
        made(store)


def test_a_busy_postgresql_says_so(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_S", 1)
    url = places.new_url("postgresql", tmp_path)
    with RequestStore.open(url, issuer=ISSUER, durable=False) as store:
        populate(store)
        other = Database(url, durable=False)
        with other.write() as tx:
            tx.order()
            with pytest.raises(StoreError, match="has been busy for over 1 s; try again"):
                made(store)
        other.close()
        made(store)


def test_a_damaged_file_is_a_finding(tmp_path: Path) -> None:
    with RequestStore.open(state_url(tmp_path), issuer=ISSUER, durable=False) as store:
        populate(store)
    with closing(sqlite3.connect(tmp_path / "requests.db", isolation_level=None)) as connection:
        connection.execute("UPDATE log SET entry = CAST(x'ff' AS TEXT) WHERE \"index\" = 1")
    with RequestStore.open(state_url(tmp_path)) as store:
        (finding,) = verify_ledger(store, ISSUER.public, None)
        assert "was changed or is damaged" in str(finding)
        with pytest.raises(VerificationError):
            store.log()
        assert store.count_since("alice", START) == 0
