"""Proofs that rows were only appended to a log since an older tree head (RFC 9162, section 2.1.4).

An auditor or owner stores a tree head: that of a receipt, of an export, or the output of
``fedunlearn ledger head``. Later the issuer proves that the log still begins with the rows under
that head. There is no such proof for a log that was cut, restored from an older copy, or shown
differently to others.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from fedunlearn import merkle
from fedunlearn.errors import InputError, VerificationError
from fedunlearn.requests.keys import PublicKey
from fedunlearn.requests.log import TreeHead
from fedunlearn.requests.log_store import HASH_BYTES
from fedunlearn.requests.store import RequestStore

FORMAT = "fedunlearn.consistency.v1"


def head_document(head: TreeHead) -> dict[str, object]:
    """Return a tree head as JSON."""
    return {
        "size": head.size,
        "root": head.root,
        "time": head.time,
        "key_id": head.key_id,
        "signature": head.signature.hex(),
    }


def head_of(document: Mapping[str, Any]) -> TreeHead:
    """Return a tree head from JSON.

    Raises:
        VerificationError: The JSON does not have the form of a tree head.
    """
    try:
        signature = bytes.fromhex(document["signature"])
        head = TreeHead(
            document["size"], document["root"], document["time"], document["key_id"], signature
        )
        sound = type(head.size) is int and len(bytes.fromhex(head.root)) == HASH_BYTES
        sound &= all(document[name] == value for name, value in head_document(head).items())
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise VerificationError("the tree head does not have the right form: it was changed or cut")
    return head


def last_head_in(document: Mapping[str, Any]) -> TreeHead:
    """Return the newest tree head in a document.

    Args:
        document: A tree head, a receipt, an exported ledger or a proof of consistency.

    Raises:
        InputError: The document is none of these.
        VerificationError: The tree head does not have the right form.
    """
    try:
        if "payload" in document:
            statement = json.loads(base64.b64decode(document["payload"], validate=True))
            return head_of(statement["predicate"]["log"])
        if "heads" in document:
            return head_of(max(document["heads"], key=lambda head: head["size"]))
        if document.get("format") == FORMAT:
            return head_of(document["second"])
        if "root" in document:
            return head_of(document)
    except (KeyError, TypeError, ValueError):
        pass
    raise InputError(
        "contains no tree head; give the output of 'fedunlearn ledger head', a receipt, or an "
        "exported ledger"
    )


def prove_consistency(store: RequestStore, first: TreeHead) -> dict[str, object]:
    """Return the proof that the log of a store begins with the rows under an older tree head.

    Args:
        store: The request store with the log.
        first: The older tree head.

    Raises:
        VerificationError: The log is shorter than the size of the head, or does not begin with
            the head's rows.
    """
    second = store.last_head()
    if second is None or second.size < first.size:
        size = 0 if second is None else second.size
        raise VerificationError(
            f"the log has {size} rows, fewer than the {first.size} of the tree head: rows are "
            "missing at its end"
        )
    proof = store.consistency(first.size, second.size)
    merkle.verify_consistency(
        first.size, bytes.fromhex(first.root), second.size, bytes.fromhex(second.root), proof
    )
    return {
        "format": FORMAT,
        "first": head_document(first),
        "second": head_document(second),
        "proof": [one.hex() for one in proof],
    }


def verify_consistency(document: Mapping[str, Any], key: PublicKey, first: TreeHead) -> TreeHead:
    """Check a proof of consistency.

    Args:
        document: The proof, as ``prove_consistency`` returns it.
        key: The issuer's public key.
        first: The tree head that the verifier had before.

    Returns:
        The newer tree head.

    Raises:
        VerificationError: A head is not signed by the issuer, the proof begins with another head,
            or the newer log does not begin with the older one.
    """
    try:
        known = document["format"] == FORMAT
        proof = [bytes.fromhex(one) for one in document["proof"]]
        claimed, second = document["first"], document["second"]
    except (KeyError, TypeError, ValueError):
        known = False
    if not known:
        raise VerificationError(
            f"the proof of consistency is not of the format {FORMAT}; 'fedunlearn ledger prove' "
            "writes it"
        )
    if head_of(claimed) != first:
        raise VerificationError("the proof does not begin with the given tree head")
    newer = head_of(second)
    for head in (first, newer):
        head.verify(key)
    merkle.verify_consistency(
        first.size, bytes.fromhex(first.root), newer.size, bytes.fromhex(newer.root), proof
    )
    return newer
