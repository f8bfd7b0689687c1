"""Checks that the log, tables and receipts of a request store agree, and the export of its log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from fedunlearn import merkle
from fedunlearn.errors import VerificationError
from fedunlearn.requests.clock import stamp
from fedunlearn.requests.consistency import head_document, head_of
from fedunlearn.requests.findings import Finding, check_key
from fedunlearn.requests.keys import PublicKey
from fedunlearn.requests.ledger_tables import check_models, check_requests, check_tables
from fedunlearn.requests.log import LogRow, TreeHead, parse_canonical
from fedunlearn.requests.log_store import read_heads, read_log
from fedunlearn.requests.quotes import quoted
from fedunlearn.requests.receipts import verify_receipt
from fedunlearn.requests.replay import Replay
from fedunlearn.requests.rows import blob
from fedunlearn.requests.store import RequestStore
from fedunlearn.requests.tables import APPLIED, KEYS, LOG

__all__ = ["FORMAT", "Finding", "export_ledger", "verify_export", "verify_ledger"]

FORMAT = "fedunlearn.ledger.v1"


def verify_ledger(
    store: RequestStore, key: PublicKey, models: Path | None, since: TreeHead | None = None
) -> list[Finding]:
    """Return the errors that are found in a request store; an empty list if there are none.

    The checks cover the log under its tree heads, the tables against the state that follows from
    the log, the receipts, the owners' signatures, the states of each request, and the model files.

    Args:
        store: Request store to check.
        key: Public key of the issuer.
        models: Folder of the model files; None to skip their check.
        since: Older tree head; since then, rows may only have been appended to the log.
    """
    found: list[Finding] = []
    try:
        with _snapshot(store) as connection:
            rows, heads = read_log(connection), read_heads(connection)
            replay = Replay()
            found += _check_log(rows, heads, key, replay)
            found += _check_since(heads, key, since)
            found += _check_leaves(connection, rows)
            found += check_tables(connection, replay)
            found += check_requests(connection, rows)
            receipts = _read_receipts(connection)
            found += _check_receipts(rows, heads, receipts, key)
            found += _check_taken_back(receipts, replay)
            found += check_models(connection, models)
    except VerificationError as error:
        found.append(Finding(str(error), "the request store"))
    return found


@contextmanager
def _snapshot(store: RequestStore) -> Iterator[Connection]:
    """Read all tables in one state, and report values of a wrong type, which SQLite can store."""
    try:
        with store.snapshot() as connection:
            yield connection
    except (TypeError, ValueError, OverflowError, AttributeError, LookupError) as error:
        raise VerificationError(
            f"it was changed or is damaged: {type(error).__name__}: {quoted(error)}"
        ) from error


def export_ledger(store: RequestStore) -> dict[str, object]:
    """Return the log, its heads, all public keys and receipts as JSON, which anyone can verify.

    Raises:
        VerificationError: The store is damaged.
    """
    with _snapshot(store) as connection:
        rows, heads = read_log(connection), read_heads(connection)
        keys = connection.execute(select(KEYS).order_by(KEYS.c.created, KEYS.c.id)).mappings()
        return {
            "format": FORMAT,
            "rows": [{"index": row.index, "entry": row.entry, "time": row.time} for row in rows],
            "heads": [head_document(head) for head in heads],
            "keys": [
                {
                    "id": row["id"],
                    "principal": row["principal"],
                    "pem": row["pem"],
                    "revoked": None if row["revoked"] is None else stamp(row["revoked"]),
                }
                for row in keys
            ],
            "receipts": _read_receipts(connection),
        }


def verify_export(
    document: Mapping[str, Any], key: PublicKey, since: TreeHead | None = None
) -> list[Finding]:
    """Return the errors that are found in an exported ledger; an empty list if there are none.

    Args:
        document: The exported ledger.
        key: Public key of the issuer.
        since: Older tree head; since then, rows may only have been appended to the log.
    """
    where = "the exported ledger"
    try:
        if document["format"] != FORMAT:
            return [Finding(f"it is not of the format {FORMAT}", where)]
        rows = [LogRow(row["index"], row["entry"], row["time"]) for row in document["rows"]]
        heads = [head_of(head) for head in document["heads"]]
        receipts = {int(index): str(text) for index, text in document["receipts"].items()}
        replay = Replay()
        found = list(_check_log(rows, heads, key, replay))
        found += _check_since(heads, key, since)
        found += _check_receipts(rows, heads, receipts, key)
        found += _check_taken_back(receipts, replay)
        for entry in document["keys"]:
            found += check_key(
                entry["id"], entry["principal"], entry["pem"], entry["revoked"], replay
            )
        for id in sorted(set(replay.keys) - {entry["id"] for entry in document["keys"]}):
            found.append(Finding("it was registered and is missing", f"key {id}"))
    except VerificationError as error:
        return [Finding(str(error), where)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return [Finding(f"it does not have the right form: {error!r}", where)]
    return found


def _check_log(
    rows: Sequence[LogRow], heads: Sequence[TreeHead], key: PublicKey, replay: Replay
) -> Iterator[Finding]:
    roots = {0: merkle.EMPTY}
    frontier = merkle.Frontier()
    entries: list[Mapping[str, object]] = []
    for place, row in enumerate(rows):
        where = f"row {row.index} of the log"
        frontier.append(row.leaf)
        roots[frontier.size] = frontier.root
        if type(row.index) is not int or row.index != place:
            yield Finding(f"it is in the place of row {place}", where)
        entries.append({})
        try:
            entry = entries[-1] = parse_canonical(row.entry.encode(), "its entry")
            if entry.get("time") != row.time:
                yield Finding("its time is not that of its entry", where)
            replay.follow(row.index, entry)
        except VerificationError as error:
            yield Finding(str(error), where)
    for head in heads:
        where = f"the tree head of size {head.size}"
        try:
            head.verify(key)
        except VerificationError as error:
            yield Finding(str(error), where)
        root = roots.get(head.size)
        if root is None or root.hex() != head.root:
            yield Finding("its root is not that of the log", where)
    signed, sizes = _sizes_signed(entries), [head.size for head in heads]
    for size in sorted(signed - set(sizes)):
        yield Finding("it is missing", f"the tree head of size {size}")
    if len(sizes) > len(signed & set(sizes)):
        yield Finding("it has more tree heads than signed changes", "the log")


def _check_since(
    heads: Sequence[TreeHead], key: PublicKey, since: TreeHead | None
) -> Iterator[Finding]:
    """Check that an older tree head is among the heads, which are checked against the rows."""
    if since is None:
        return
    where = f"the given tree head of size {since.size}"
    try:
        since.verify(key)
    except VerificationError as error:
        yield Finding(str(error), where)
    if since not in heads:
        yield Finding("the log does not contain it: the log was cut, or is another log", where)


def _sizes_signed(entries: Sequence[Mapping[str, object]]) -> set[int]:
    """Return the sizes at which the log was signed: after each row, once for a job's removals."""
    jobs = [entry.get("job") if entry.get("kind") == "removal" else None for entry in entries]
    return {
        place + 1
        for place, (job, following) in enumerate(zip(jobs, [*jobs[1:], None], strict=True))
        if job is None or job != following
    }


def _check_leaves(connection: Connection, rows: Iterable[LogRow]) -> Iterator[Finding]:
    leaves = connection.execute(select(LOG.c.leaf).order_by(LOG.c.index)).scalars()
    for row, leaf in zip(rows, leaves, strict=True):
        if blob(leaf) != row.leaf:
            yield Finding("its leaf is not the entry's hash", f"row {row.index} of the log")


def _read_receipts(connection: Connection) -> dict[int, str]:
    query = select(APPLIED.c.index, APPLIED.c.receipt).where(APPLIED.c.receipt.is_not(None))
    rows = connection.execute(query.order_by(APPLIED.c.index)).mappings()
    return {row["index"]: row["receipt"] for row in rows}


def _check_receipts(
    rows: Sequence[LogRow],
    heads: Sequence[TreeHead],
    receipts: Mapping[int, str],
    key: PublicKey,
) -> Iterator[Finding]:
    entries = {row.index: row.entry for row in rows}
    for index, text in receipts.items():
        where = f"the receipt of row {index} of the log"
        try:
            receipt = verify_receipt(text, key)
        except VerificationError as error:
            yield Finding(str(error), where)
            continue
        if receipt.index != index or receipt.leaf.decode() != entries.get(index):
            yield Finding("it belongs to another row", where)
        if receipt.head not in heads:
            yield Finding("the log has no such tree head", where)


def _check_taken_back(receipts: Mapping[int, str], replay: Replay) -> Iterator[Finding]:
    """Check that rolled back removals have receipts, as only finished ones can be rolled back."""
    for index in sorted(replay.taken_back - set(receipts)):
        yield Finding("it is missing", f"the receipt of row {index} of the log")
