"""A node's commitments to its records, made at enrolment, by which requests name records.

A commitment is the sha256 of a secret salt and the record. The salts come from one secret that
stays on the node, so a commitment reveals nothing of a record, even where the record is one of a
few candidates. A request that names a record shows its commitment and proves that it is a leaf of
the registered Merkle tree.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedunlearn import merkle
from fedunlearn.errors import VerificationError
from fedunlearn.files import replacing

_MAGIC = b"fedunlearn commitments 1\n"
_WIDTH = 32


@dataclass(frozen=True)
class Commitment:
    """The commitment of a node to all of its records, which it registers.

    Attributes:
        root: Root of the Merkle tree over the commitments, hexadecimal.
        size: Number of records.
    """

    root: str
    size: int


def record_salt(secret: bytes, index: int) -> bytes:
    """Return the salt of a record, 32 bytes: HMAC-SHA256 of its index under the node's secret."""
    return hmac.digest(secret, index.to_bytes(8, "big"), "sha256")


def record_commitment(salt: bytes, record: bytes) -> bytes:
    """Return the commitment to a record, 32 bytes.

    Args:
        salt: The salt, 32 bytes; with other lengths, different salts and records could collide.
        record: The record's bytes.

    Raises:
        ValueError: The salt is of another length.
    """
    if len(salt) != _WIDTH:
        raise ValueError(f"a salt has {_WIDTH} bytes, not {len(salt)}")
    return hashlib.sha256(salt + record).digest()


def verify_record(commitment: Commitment, index: int, record: bytes, path: Sequence[bytes]) -> None:
    """Check that a node committed to a record.

    Args:
        commitment: The commitment that the node registered.
        index: Position of the record, from 0.
        record: Commitment to the record.
        path: Inclusion proof of the record's commitment.

    Raises:
        VerificationError: The proof does not show that the node committed to the record.
    """
    root = bytes.fromhex(commitment.root)
    merkle.verify_inclusion(root, commitment.size, index, merkle.leaf_hash(record), path)


class Commitments:
    """All commitments of a node, which contain neither salts nor data."""

    def __init__(self, commitments: Iterable[bytes]) -> None:
        """Take commitments in the order of the records.

        Raises:
            ValueError: There are none, or one is not 32 bytes long.
        """
        self._commitments = tuple(commitments)
        if not self._commitments or any(len(c) != _WIDTH for c in self._commitments):
            raise ValueError(f"commitments are one or more of {_WIDTH} bytes each")

    @classmethod
    def of(cls, secret: bytes, records: Iterable[bytes]) -> Commitments:
        """Return the commitments to records.

        Args:
            secret: The node's secret, 32 random bytes.
            records: The bytes of each record, in the node's order.
        """
        return cls(
            record_commitment(record_salt(secret, index), record)
            for index, record in enumerate(records)
        )

    @property
    def size(self) -> int:
        """The number of records."""
        return len(self._commitments)

    @property
    def root(self) -> bytes:
        """The root of the Merkle tree, 32 bytes."""
        return self._levels[-1][0]

    @property
    def registered(self) -> Commitment:
        """The commitment that the node registers."""
        return Commitment(self.root.hex(), self.size)

    def commitment(self, index: int) -> bytes:
        """Return the commitment to a record, 32 bytes."""
        return self._commitments[index]

    def path(self, index: int) -> list[bytes]:
        """Return the inclusion proof of a commitment in the tree."""
        return merkle.path(self._levels, index)

    def save(self, path: Path) -> None:
        """Write the commitments to a file."""
        with replacing(path) as file:
            file.write(_MAGIC + self.root + b"".join(self._commitments))

    @classmethod
    def load(cls, path: Path) -> Commitments:
        """Return the commitments in a file.

        Raises:
            VerificationError: The file is missing, damaged or changed.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise VerificationError(f"{path} cannot be read: {error.strerror}") from None
        body = data[len(_MAGIC) :]
        if not data.startswith(_MAGIC) or len(body) % _WIDTH or len(body) < 2 * _WIDTH:
            raise VerificationError(f"{path} holds no commitments of a node, or only part of them")
        pieces = [body[i : i + _WIDTH] for i in range(0, len(body), _WIDTH)]
        found = cls(pieces[1:])
        if found.root != pieces[0]:
            raise VerificationError(f"{path} was changed: its commitments have another root")
        return found

    @functools.cached_property
    def _levels(self) -> list[Sequence[bytes]]:
        return merkle.levels([merkle.leaf_hash(c) for c in self._commitments])
