"""The log in the store: rows are appended together with a signed head over all rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, RowMapping, delete, insert, select

from fedunlearn import merkle
from fedunlearn.errors import StoreError, VerificationError
from fedunlearn.requests.clock import stamp
from fedunlearn.requests.database import Database, Transaction
from fedunlearn.requests.keys import PrivateKey
from fedunlearn.requests.log import LogRow, TreeHead, canonical
from fedunlearn.requests.rows import blob
from fedunlearn.requests.tables import FRONTIER, HEADS, LOG

HASH_BYTES = 32
_LAST_HEAD = select(HEADS).order_by(HEADS.c.size.desc()).limit(1)


class Log:
    """The methods of a request store for its log."""

    _database: Database
    issuer: PrivateKey | None

    def log(self, after: int = -1) -> list[LogRow]:
        """Return the rows after an index, in order."""
        with self._database.read() as connection:
            return read_log(connection, after)

    def last_head(self) -> TreeHead | None:
        """Return the head over all rows; None if there are no rows."""
        with self._database.read() as connection:
            row = connection.execute(_LAST_HEAD).mappings().one_or_none()
        return None if row is None else _head(row)

    def head_over(self, index: int) -> TreeHead | None:
        """Return the first head that was signed over a row, which is the head in its receipt."""
        query = select(HEADS).where(HEADS.c.size > index).order_by(HEADS.c.size).limit(1)
        with self._database.read() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else _head(row)

    def inclusions(self, indexes: Iterable[int], size: int) -> dict[int, list[bytes]]:
        """Return the inclusion proofs of rows in the log of some size.

        Raises:
            IndexError: There is no such row.
        """
        with self._database.read() as connection:
            levels = merkle.levels(_leaves(connection, size))
        return {index: merkle.path(levels, index) for index in indexes}

    def consistency(self, first: int, second: int) -> list[bytes]:
        """Return the proof that the log of size ``second`` begins with the log of size ``first``.

        Raises:
            IndexError: The sizes are not in ascending order.
        """
        with self._database.read() as connection:
            return merkle.consistency_proof(_leaves(connection, second), first)

    def _signer(self) -> PrivateKey:
        if self.issuer is None:
            raise StoreError(
                "the request store was opened without the issuer's key, which signs its log; "
                "right is to open it with that key"
            )
        return self.issuer


def append(
    tx: Transaction, issuer: PrivateKey, entries: Sequence[Mapping[str, object]], now: int
) -> list[int]:
    """Append rows and sign the resulting log.

    Args:
        tx: The transaction.
        issuer: Private key that signs the head.
        entries: Entries of the rows; the time is added to each.
        now: Current time in microseconds since the epoch.

    Returns:
        Indexes of the rows.

    Raises:
        StoreError: The log is signed with another key.
    """
    first = tx.numbered(LOG.c.index)
    last = tx.execute(_LAST_HEAD).mappings().one_or_none()
    if last is not None and last["key_id"] != issuer.public.id:
        raise StoreError(
            f"the log is signed with key {last['key_id']}, not {issuer.public.id}; right is the "
            "issuer's key with which it was begun"
        )
    frontier = _frontier(tx.connection, first, last["root"] if last is not None else None)
    texts = [canonical({**entry, "time": stamp(now)}) for entry in entries]
    leaves = [merkle.leaf_hash(text) for text in texts]
    tx.execute(
        insert(LOG),
        [
            {"index": first + i, "entry": text.decode(), "leaf": leaf, "time": now}
            for i, (text, leaf) in enumerate(zip(texts, leaves, strict=True))
        ],
    )
    for leaf in leaves:
        frontier.append(leaf)
    tx.execute(delete(FRONTIER))
    tx.execute(insert(FRONTIER).values(id=1, size=frontier.size, peaks=b"".join(frontier.peaks)))
    head = TreeHead.signed(first + len(leaves), frontier.root, now, issuer)
    tx.execute(
        insert(HEADS).values(
            size=head.size,
            root=head.root,
            time=now,
            key_id=head.key_id,
            signature=head.signature,
        )
    )
    return list(range(first, first + len(leaves)))


def _frontier(connection: Connection, size: int, root: str | None) -> merkle.Frontier:
    """Return the frontier of the log; from its leaves if the stored frontier does not match."""
    row = connection.execute(select(FRONTIER)).mappings().one_or_none()
    if row is not None and row["size"] == size:
        peaks = blob(row["peaks"])
        cut = [peaks[place : place + HASH_BYTES] for place in range(0, len(peaks), HASH_BYTES)]
        try:
            stored = merkle.Frontier.resumed(size, cut)
        except VerificationError:
            stored = merkle.Frontier()
        if stored.size == size and stored.root.hex() == root:
            return stored
    return merkle.Frontier(_leaves(connection, size))


def read_log(connection: Connection, after: int = -1) -> list[LogRow]:
    """Return the rows after an index, in order."""
    rows = connection.execute(select(LOG).where(LOG.c.index > after).order_by(LOG.c.index))
    return [LogRow(row["index"], row["entry"], stamp(row["time"])) for row in rows.mappings()]


def read_heads(connection: Connection) -> list[TreeHead]:
    """Return all signed tree heads, the smallest first."""
    rows = connection.execute(select(HEADS).order_by(HEADS.c.size)).mappings()
    return [_head(row) for row in rows]


def _head(row: RowMapping) -> TreeHead:
    return TreeHead(
        row["size"], row["root"], stamp(row["time"]), row["key_id"], blob(row["signature"])
    )


def _leaves(connection: Connection, size: int) -> list[bytes]:
    rows = connection.execute(select(LOG.c.leaf).where(LOG.c.index < size).order_by(LOG.c.index))
    return [blob(leaf) for leaf in rows.scalars()]
