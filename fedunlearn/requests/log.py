"""Rows of the append-only log, and the signed tree heads over them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from fedunlearn import merkle
from fedunlearn.errors import VerificationError
from fedunlearn.requests.clock import stamp
from fedunlearn.requests.keys import PrivateKey, PublicKey
from fedunlearn.requests.quotes import quoted

TREE_HEAD_TYPE = "application/vnd.fedunlearn.tree-head.v1"


def canonical(entry: Mapping[str, object]) -> bytes:
    """Return the canonical form of a JSON object, which is hashed and signed.

    Raises:
        ValueError: The object contains values that are not JSON.
    """
    try:
        text = json.dumps(
            entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        return text.encode()
    except TypeError as error:
        raise ValueError(f"an entry of the log must be JSON: {error}") from None


def parse_canonical(text: bytes, what: str) -> dict[str, object]:
    """Return the JSON object of a text in canonical form.

    Args:
        text: The text.
        what: Name of the text in error messages.

    Raises:
        VerificationError: The text is not a JSON object in canonical form.
    """
    try:
        found = json.loads(text)
        same = isinstance(found, dict) and canonical(found) == text
    except (ValueError, RecursionError):
        same = False
    if not same:
        raise VerificationError(f"{what} is not JSON in canonical form: it was changed or cut")
    assert isinstance(found, dict)
    return found


@dataclass(frozen=True)
class LogRow:
    """A row of the log.

    Attributes:
        index: Index of the row, from 0 without gaps.
        entry: Entry in canonical JSON, which is the data of the leaf.
        time: Time of the entry, RFC 3339.
    """

    index: int
    entry: str
    time: str

    @property
    def leaf(self) -> bytes:
        """Hash of the row's leaf in the Merkle tree."""
        return merkle.leaf_hash(self.entry.encode())


@dataclass(frozen=True)
class TreeHead:
    """The root of the log's Merkle tree at some size, signed by the issuer.

    Attributes:
        size: Number of rows.
        root: Root of the Merkle tree, hexadecimal.
        time: Time of the signature, RFC 3339.
        key_id: Id of the issuer's key.
        signature: Signature over size, root and time, of type TREE_HEAD_TYPE.
    """

    size: int
    root: str
    time: str
    key_id: str
    signature: bytes

    @classmethod
    def signed(cls, size: int, root: bytes, now: int, key: PrivateKey) -> TreeHead:
        """Return a signed tree head.

        Args:
            size: Number of rows.
            root: Root of the Merkle tree.
            now: Current time in microseconds since the epoch.
            key: Private key of the issuer.
        """
        time = stamp(now)
        payload = _payload(size, root.hex(), time)
        return cls(size, root.hex(), time, key.public.id, key.sign(TREE_HEAD_TYPE, payload))

    def verify(self, key: PublicKey) -> None:
        """Check that a key signed the head.

        Raises:
            VerificationError: This key did not sign the head.
        """
        if self.key_id != key.id:
            raise VerificationError(
                f"the tree head of size {quoted(self.size)} names key {quoted(self.key_id)}, not "
                f"{key.id}"
            )
        payload = _payload(self.size, self.root, self.time)
        key.verify(TREE_HEAD_TYPE, payload, self.signature, as_made_here=True)


def _payload(size: int, root: str, time: str) -> bytes:
    return canonical({"size": size, "root": root, "time": time})
