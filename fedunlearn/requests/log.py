"""Rows of the append-only log, and the tree heads that are signed over them."""

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
    """Return the one form of a JSON object in which it is hashed and signed.

    Raises:
        ValueError: It holds what is no JSON.
    """
    try:
        text = json.dumps(
            entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        return text.encode()
    except TypeError as error:
        raise ValueError(f"an entry of the log must be JSON: {error}") from None


def parse_canonical(text: bytes, what: str) -> dict[str, object]:
    """Return a JSON object that is written in its canonical form.

    Args:
        text: As it was found.
        what: How messages name it.

    Raises:
        VerificationError: It is no object, or written in another form.
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
        index: From 0, without gaps.
        entry: What happened, canonical JSON; the leaf's data.
        time: As in the entry.
    """

    index: int
    entry: str
    time: str

    @property
    def leaf(self) -> bytes:
        """Hash of the leaf."""
        return merkle.leaf_hash(self.entry.encode())


@dataclass(frozen=True)
class TreeHead:
    """The root of the log at some size, signed by its issuer.

    Attributes:
        size: How many rows.
        root: Of the tree over them, hexadecimal.
        time: When it was signed, RFC 3339.
        key_id: Of the issuer's key.
        signature: Over the three, as TREE_HEAD_TYPE.
    """

    size: int
    root: str
    time: str
    key_id: str
    signature: bytes

    @classmethod
    def signed(cls, size: int, root: bytes, now: int, key: PrivateKey) -> TreeHead:
        """Return a head.

        Args:
            size: How many rows.
            root: Of their tree.
            now: Microseconds since the epoch.
            key: The issuer's.
        """
        time = stamp(now)
        payload = _payload(size, root.hex(), time)
        return cls(size, root.hex(), time, key.public.id, key.sign(TREE_HEAD_TYPE, payload))

    def verify(self, key: PublicKey) -> None:
        """Check who signed it.

        Raises:
            VerificationError: It was not this key.
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
