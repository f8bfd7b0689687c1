"""Commitments to records: what they hide, what they prove, and the file that keeps them."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest

from fedunlearn.commitments import (
    Commitment,
    Commitments,
    record_commitment,
    record_salt,
    verify_record,
)
from fedunlearn.errors import VerificationError
from fedunlearn.requests.deletion import Scope, ScopeKind
from fedunlearn.requests.statement import class_scope, node_scope, record_scope, scope_of

SECRET = bytes(range(32))
RECORDS = [b"record %d" % i for i in range(11)]


def test_a_commitment_is_the_hash_of_salt_and_record() -> None:
    salt = hmac.digest(SECRET, bytes(7) + b"\x03", hashlib.sha256)
    assert record_salt(SECRET, 3) == salt
    commitments = Commitments.of(SECRET, RECORDS)
    assert commitments.commitment(3) == hashlib.sha256(salt + RECORDS[3]).digest()
    with pytest.raises(ValueError, match="a salt has 32 bytes, not 31"):
        record_commitment(salt[1:], RECORDS[3])


def test_the_same_record_looks_different_elsewhere() -> None:
    twice = Commitments.of(SECRET, [b"same", b"same"])
    other = Commitments.of(bytes(32), [b"same", b"same"])
    assert len({c.commitment(i) for c in (twice, other) for i in (0, 1)}) == 4


def test_a_record_is_shown_to_be_committed() -> None:
    commitments = Commitments.of(SECRET, RECORDS)
    registered = commitments.registered
    assert registered == Commitment(commitments.root.hex(), len(RECORDS))
    for i in range(len(RECORDS)):
        verify_record(registered, i, commitments.commitment(i), commitments.path(i))
        with pytest.raises(VerificationError):
            verify_record(registered, i, bytes(32), commitments.path(i))
        with pytest.raises(VerificationError):
            verify_record(registered, i + 1, commitments.commitment(i), commitments.path(i))


def test_the_file_holds_what_was_saved_and_shows_what_was_changed(tmp_path: Path) -> None:
    commitments, path = Commitments.of(SECRET, RECORDS), tmp_path / "commitments"
    commitments.save(path)
    loaded = Commitments.load(path)
    assert loaded.registered == commitments.registered
    assert loaded.path(10) == commitments.path(10)
    whole = path.read_bytes()
    assert not any(record in whole or record_salt(SECRET, 0) in whole for record in RECORDS)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(VerificationError):
            Commitments.load(path)
    for part in (b"", whole[:-1], whole[:-32], whole + bytes(32)):
        path.write_bytes(part)
        with pytest.raises(VerificationError):
            Commitments.load(path)
    with pytest.raises(VerificationError, match="cannot be read"):
        Commitments.load(tmp_path / "nowhere")


def test_a_node_has_at_least_one_record() -> None:
    with pytest.raises(ValueError, match="one or more of 32 bytes"):
        Commitments.of(SECRET, [])


def test_scopes_are_read_as_they_were_written() -> None:
    commitments = Commitments.of(SECRET, RECORDS)
    message = record_scope("4", commitments, [7, 2])
    assert scope_of(message.SerializeToString()) == Scope(
        ScopeKind.RECORDS, nodes=("4",), records=(2, 7)
    )
    for record in message.records.records:
        verify_record(commitments.registered, record.index, record.commitment, record.path)
    nodes = scope_of(node_scope(["3", "1"]).SerializeToString())
    assert nodes == Scope(ScopeKind.NODE, nodes=("1", "3")) and nodes.count == 2
    labels = scope_of(class_scope(["5"], ["2"]).SerializeToString())
    assert labels == Scope(ScopeKind.CLASS, nodes=("2",), labels=("5",))
    with pytest.raises(IndexError, match="there is no record 11: the node committed to 11"):
        record_scope("4", commitments, [1, 11])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "names neither nodes nor records"),
        (b"\xff", "not a message"),
        (node_scope([]).SerializeToString(), "names no node"),
        (class_scope([]).SerializeToString(), "names no class"),
    ],
)
def test_what_is_no_scope(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scope_of(content)
