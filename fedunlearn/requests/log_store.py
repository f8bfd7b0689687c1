"""The log in the store: rows are appended together with a head over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, RowMapping, insert, select

from fedunlearn import merkle
from fedunlearn.errors import StoreError
from fedunlearn.requests.clock import stamp
from fedunlearn.requests.database import Database, Transaction
from fedunlearn.requests.keys import PrivateKey
from fedunlearn.requests.log import LogRow, TreeHead, canonical
from fedunlearn.requests.rows import blob
from fedunlearn.requests.tables import HEADS, LOG


class Log:
    """What a request store does with its log."""

    _database: Database
    issuer: PrivateKey | None

    def log(self, after: int = -1) -> list[LogRow]:
        """Return the rows after an index, in order."""
        with self._database.read() as connection:
            return read_log(connection, after)

    def heads(self) -> list[TreeHead]:
        """Return all signed tree heads, the smallest first."""
        with self._database.read() as connection:
            return read_heads(connection)

    def last_head(self) -> TreeHead | None:
        """Return the head over all rows; None where there are no rows."""
        query = select(HEADS).order_by(HEADS.c.size.desc()).limit(1)
        with self._database.read() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else _head(row)

    def head_over(self, index: int) -> TreeHead | None:
        """Return the first head that was signed over a row: the one its receipt names."""
        query = select(HEADS).where(HEADS.c.size > index).order_by(HEADS.c.size).limit(1)
        with self._database.read() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else _head(row)

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Return the proof that a row is in the log of some size.

        Raises:
            IndexError: There is no such row.
        """
        return self.inclusions([index], size)[index]

    def inclusions(self, indexes: Iterable[int], size: int) -> dict[int, list[bytes]]:
        """Return the proofs that rows are in the log of some size.

        Raises:
            IndexError: There is no such row.
        """
        with self._database.read() as connection:
            levels = merkle.levels(_leaves(connection, size))
        return {index: merkle.path(levels, index) for index in indexes}

    def consistency(self, first: int, second: int) -> list[bytes]:
        """Return the proof that the log of a size begins with the log of a smaller one.

        Raises:
            IndexError: The sizes are not in order.
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
    """Append rows and sign the log as it is then.

    Args:
        tx: The transaction.
        issuer: Key that signs the head.
        entries: What happened; each gets the time.
        now: Microseconds since the epoch.

    Returns:
        The rows' indexes.

    Raises:
        StoreError: Another key has signed the log so far.
    """
    first = tx.numbered(LOG.c.index)
    last = tx.execute(select(HEADS.c.key_id).order_by(HEADS.c.size.desc()).limit(1)).scalar()
    if last not in (None, issuer.public.id):
        raise StoreError(
            f"the log is signed with key {last}, not {issuer.public.id}; right is the issuer's key "
            "that it began with"
        )
    texts = [canonical({**entry, "time": stamp(now)}) for entry in entries]
    leaves = [merkle.leaf_hash(text) for text in texts]
    tx.execute(
        insert(LOG),
        [
            {"index": first + i, "entry": text.decode(), "leaf": leaf, "time": now}
            for i, (text, leaf) in enumerate(zip(texts, leaves, strict=True))
        ],
    )
    root = merkle.root(_leaves(tx.connection, first + len(leaves)))
    head = TreeHead.signed(first + len(leaves), root, now, issuer)
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
