"""Any single changed byte of a receipt, of the log or of a model file is found."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedunlearn.commitments import Commitment
from fedunlearn.errors import VerificationError
from fedunlearn.requests.database import state_url
from fedunlearn.requests.keys import Kind, PrivateKey
from fedunlearn.requests.ledger import export_ledger, verify_export, verify_ledger
from fedunlearn.requests.log import canonical
from fedunlearn.requests.model_lineage import model_path
from fedunlearn.requests.receipts import verify_receipt
from fedunlearn.requests.statement import node_scope
from fedunlearn.requests.store import RequestStore
from tests.deletions import (
    BOB,
    FIRST,
    ISSUER,
    OPERATOR,
    START,
    at,
    completed,
    holds,
    keep_model,
    leased,
    made,
    model_named,
    populate,
    request,
)
from tests.laws import laws
from tests.unit.test_receipts import KINDS, receipt

TABLES = ("log", "heads", "applied")
# What else the log and the owners' signatures vouch for.
VOUCHED = {
    "deletions": (
        "id request_id owner key_id statement signature scope statement_sha256 scope_sha256 parsed "
        "model state created ended last_event model_before model_after"
    ),
    "events": "deletion state",
    "keys": "id principal pem revoked",
    "principals": "name role",
    "nodes": "name owner commitment_root commitment_size left",
    "classes": "name",
    "models": "sha256 parent file rolled_back",
    "current": "model",
}
many = laws(300)


@dataclass
class Story:
    """A store in which much has happened."""

    folder: Path
    store: RequestStore
    cells: list[tuple[str, int, str]]
    vouched: list[tuple[str, int, str]]

    @property
    def database(self) -> Path:
        return self.folder / "requests.db"


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("story")
    with RequestStore.open(state_url(folder), issuer=ISSUER, durable=False) as store:
        populate(store)
        store.register_commitment("0", Commitment("ab" * 32, 5), now=START)
        for name in ("first", "second", "third"):
            keep_model(folder, name)
        made(store)
        made(store, request(node_scope(["1"])))
        completed(store, leased(store, batch=2), "second")
        made(store, request(owner="bob"))
        completed(store, leased(store), "third")
        store.rollback(OPERATOR, "worse", now=at(1))
        store.revoke_key(BOB.public.id, now=at(2))
        assert holds(store, folder)
        with closing(sqlite3.connect(folder / "requests.db")) as connection:
            cells = [cell for table in TABLES for cell in cells_of(connection, table)]
            vouched = [
                cell
                for table, columns in VOUCHED.items()
                for cell in cells_of(connection, table)
                if cell[2] in columns.split()
            ]
        yield Story(folder, store, cells, vouched)


def cells_of(connection: sqlite3.Connection, table: str) -> Iterator[tuple[str, int, str]]:
    rows = connection.execute(f'SELECT rowid, * FROM "{table}"')
    names = [column[0] for column in rows.description]
    for row in rows.fetchall():
        for name, value in list(zip(names, row, strict=True))[1:]:
            if value is not None:
                yield table, row[0], name


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_receipt(kind: Kind) -> None:
    key = PrivateKey.generate(kind)
    whole = receipt(key).encode()
    for place in range(len(whole)):
        for change in (0x01, 0x20):
            changed = bytearray(whole)
            changed[place] ^= change
            with pytest.raises(VerificationError):
                verify_receipt(bytes(changed), key.public)


KEY = PrivateKey.generate("p256")
WHOLE = receipt(KEY).encode()


@many
@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255), st.sampled_from(["set", "put", "cut"]))
def test_a_receipt_with_any_byte_in_any_place(place: int, byte: int, how: str) -> None:
    rest = WHOLE[place:] if how == "put" else WHOLE[place + 1 :]
    changed = WHOLE[:place] + (b"" if how == "cut" else bytes([byte])) + rest
    if changed != WHOLE:
        with pytest.raises(VerificationError):
            verify_receipt(changed, KEY.public)


def tampered(value: object, place: float, bit: int) -> object:
    """Return a value of a table with one bit of it changed."""
    if isinstance(value, int):
        return value ^ (1 << bit)
    data = bytearray(value.encode() if isinstance(value, str) else bytes(value))  # type: ignore[call-overload]
    data[int(place * (len(data) - 1))] ^= 1 << bit
    return bytes(data)


def found(story: Story, table: str, row: int, column: str, place: float, bit: int) -> bool:
    """Change a cell behind the store's back, and return whether the check finds it."""
    cell = f'"{table}" SET "{column}"'
    with closing(sqlite3.connect(story.database, isolation_level=None)) as connection:
        query = f'SELECT "{column}" FROM "{table}" WHERE rowid = ?'
        (value,) = connection.execute(query, [row]).fetchone()
        changed = tampered(value, place, bit)
        # As text again where it was text, also where it is none any more.
        to = "CAST(? AS TEXT)" if isinstance(value, str) else "?"
        connection.execute("BEGIN")
        try:
            connection.execute(f"UPDATE {cell} = {to} WHERE rowid = ?", [changed, row])
        except sqlite3.IntegrityError:
            connection.execute("ROLLBACK")
            return True
        connection.execute("COMMIT")
        # The index is the row's name.
        name = changed if (table, column) in NAMES else row
        try:
            return bool(verify_ledger(story.store, ISSUER.public, story.folder))
        finally:
            connection.execute(f"UPDATE {cell} = ? WHERE rowid = ?", [value, name])


NAMES = {
    ("log", "index"),
    ("applied", "index"),
    ("heads", "size"),
}


def test_every_column_of_the_log(story: Story) -> None:
    for table, row, column in story.cells:
        for place, bit in ((0.0, 0), (0.5, 1), (1.0, 5)):
            assert found(story, table, row, column, place, bit), (table, row, column)
    assert holds(story.store, story.folder)


def test_what_is_vouched_for(story: Story) -> None:
    for table, row, column in story.vouched:
        assert found(story, table, row, column, 0.5, 1), (table, row, column)
    assert holds(story.store, story.folder)


@laws(200)
@given(st.data())
def test_any_bit_of_the_log(story: Story, data: st.DataObject) -> None:
    table, row, column = data.draw(st.sampled_from(story.cells))
    place, bit = data.draw(st.floats(0, 1)), data.draw(st.integers(0, 7))
    assert found(story, table, row, column, place, bit)


VALUES = (2**62, -(2**63), 0.5, "", "x", "0", b"", b"x", '{"kind":[]}', "\u2028")


@pytest.mark.parametrize("value", VALUES)
def test_a_value_of_any_type_and_size(story: Story, value: object) -> None:
    once = {(table, column): row for table, row, column in [*story.cells, *story.vouched]}
    for (table, column), row in once.items():
        cell = f'"{table}" SET "{column}" = ? WHERE rowid = ?'
        with closing(sqlite3.connect(story.database, isolation_level=None)) as connection:
            before = connection.execute(
                f'SELECT "{column}" FROM "{table}" WHERE rowid = ?', [row]
            ).fetchone()[0]
            try:
                connection.execute(f"UPDATE {cell}", [value, row])
            except sqlite3.IntegrityError:
                continue
            name = value if (table, column) in NAMES else row
            after = connection.execute(
                f'SELECT "{column}" FROM "{table}" WHERE rowid = ?', [name]
            ).fetchone()[0]
            try:
                findings = verify_ledger(story.store, ISSUER.public, story.folder)
                assert findings or after == before, (table, row, column)
                assert all(f"{finding}".isprintable() for finding in findings)
            finally:
                connection.execute(f"UPDATE {cell}", [before, name])
    assert holds(story.store, story.folder)


def test_a_row_that_is_gone_or_was_put_in(story: Story) -> None:
    with closing(sqlite3.connect(story.database, isolation_level=None)) as connection:
        for table in TABLES:
            kept = connection.execute(f'SELECT * FROM "{table}"').fetchall()
            for row in kept:
                connection.execute(f'DELETE FROM "{table}" WHERE rowid = ?', [row[0]])
                assert verify_ledger(story.store, ISSUER.public, None), (table, row[0])
                marks = ",".join("?" * len(row))
                connection.execute(f'INSERT INTO "{table}" VALUES ({marks})', row)
        connection.execute(
            "INSERT INTO keys SELECT replace(id, substr(id, 1, 1), 'x'), principal, pem, created, "
            "NULL FROM keys LIMIT 1"
        )
        findings = verify_ledger(story.store, ISSUER.public, None)
        assert {finding.where[:5] for finding in findings} == {"key x"}
        connection.execute("DELETE FROM keys WHERE id LIKE 'x%'")
    assert holds(story.store)


@many
@given(st.data())
def test_an_exported_ledger(story: Story, data: st.DataObject) -> None:
    whole = json.dumps(export_ledger(story.store), separators=(",", ":")).encode()
    changed = bytearray(whole)
    changed[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        document = json.loads(bytes(changed))
    except ValueError:
        return
    assert verify_export(document, ISSUER.public)


def test_an_exported_ledger_without_one_of_its_parts(story: Story) -> None:
    def parts() -> dict[str, Any]:
        return json.loads(json.dumps(export_ledger(story.store)))  # type: ignore[no-any-return]

    for name in ("rows", "heads", "keys"):
        for place in range(len(parts()[name])):
            changed = parts()
            del changed[name][place]
            assert verify_export(changed, ISSUER.public), (name, place)
    for index in parts()["receipts"]:
        changed = parts()
        del changed["receipts"][index]
        taken_back = int(index) == max(map(int, parts()["receipts"]))
        # One that is not may be of a job that is not finished.
        assert bool(verify_export(changed, ISSUER.public)) == taken_back
    for index, other in ((0, False), (1, True), (1, 1.0)):
        changed = parts()
        changed["rows"][index]["index"] = other
        assert verify_export(changed, ISSUER.public)


def test_what_was_made_up_steers_no_terminal(story: Story) -> None:
    escape = "\x1b[2Jrow\n" + "x" * 10_000
    document = json.loads(json.dumps(export_ledger(story.store)))
    document["rows"][0]["index"] = escape
    document["heads"][0]["key_id"] = escape
    document["keys"][0]["id"] = escape
    findings = verify_export(document, ISSUER.public)
    assert len(findings) >= 3
    assert all(str(one).isprintable() and len(str(one)) < 2000 for one in findings)
    envelope = json.loads(WHOLE)
    envelope["signatures"][0]["keyid"] = escape
    with pytest.raises(VerificationError) as raised:
        verify_receipt(canonical(envelope), KEY.public)
    assert str(raised.value).isprintable() and len(str(raised.value)) < 500


@laws(100)
@given(
    st.sampled_from(["first", "second", "third"]),
    st.integers(0, 10),
    st.integers(0, 255),
)
@example("first", 0, 0)
def test_a_changed_model_file(story: Story, name: str, place: int, byte: int) -> None:
    path = model_path(story.folder, model_named(name))
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[place % len(whole)] = byte
    path.write_bytes(changed)
    try:
        findings = verify_ledger(story.store, ISSUER.public, story.folder)
    finally:
        path.write_bytes(whole)
    assert [finding.where for finding in findings] == ([] if changed == whole else [str(path)])


def test_a_model_file_that_is_gone(story: Story) -> None:
    path = model_path(story.folder, FIRST)
    whole = path.read_bytes()
    path.unlink()
    (finding,) = verify_ledger(story.store, ISSUER.public, story.folder)
    assert str(finding) == f"{path}: it cannot be read: No such file or directory"
    path.write_bytes(whole)


def test_another_issuer_s_key_verifies_nothing(story: Story) -> None:
    other = PrivateKey.generate().public
    assert verify_ledger(story.store, other, None)
    assert verify_export(export_ledger(story.store), other)
    assert verify_export({"format": "other"}, ISSUER.public)
    assert verify_export({}, ISSUER.public)
