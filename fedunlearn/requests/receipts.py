"""Receipts: signed statements of removals, with the proof that the log contains the same entry.

A receipt is a DSSE envelope around an in-toto statement about the new model file. Its predicate is
the removal's entry in the log, together with the signed tree head and the inclusion proof, so that
only the issuer's public key is needed to verify it. All parts are in the canonical form of JSON,
and signatures are deterministic, so a receipt that is made again from the log is identical.
Sources: https://github.com/secure-systems-lab/dsse, https://github.com/in-toto/attestation
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedunlearn import merkle
from fedunlearn.errors import VerificationError
from fedunlearn.requests.keys import PrivateKey, PublicKey
from fedunlearn.requests.log import LogRow, TreeHead, canonical, parse_canonical
from fedunlearn.requests.quotes import quoted

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://fedunlearn.dev/unlearning-receipt/v0.1"
SUBJECT = "model.safetensors"


@dataclass(frozen=True)
class Receipt:
    """The content of a verified receipt.

    Attributes:
        entry: The removal's entry in the log.
        model: sha256 of the model file after the removal, hexadecimal.
        index: Index of the entry in the log.
        head: Signed tree head of the log that covers the entry.
        path: Inclusion proof of the entry.
        key_id: Id of the issuer's key.
    """

    entry: Mapping[str, object]
    model: str
    index: int
    head: TreeHead
    path: tuple[bytes, ...]
    key_id: str

    @property
    def predicate(self) -> Mapping[str, object]:
        """Predicate of the in-toto statement."""
        return {**self.entry, "log": _log(self.index, self.head, self.path)}

    @property
    def leaf(self) -> bytes:
        """Data of the entry's leaf in the log's Merkle tree."""
        return canonical(self.entry)


def make_receipt(row: LogRow, head: TreeHead, path: Sequence[bytes], key: PrivateKey) -> str:
    """Return the receipt of a removal.

    Args:
        row: Row of the removal in the log.
        head: First tree head that was signed over the row.
        path: Inclusion proof of the row under this head.
        key: Private key of the issuer.

    Raises:
        VerificationError: The row is not in canonical form, or does not describe a removal.
    """
    entry = parse_canonical(row.entry.encode(), f"row {row.index} of the log")
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": SUBJECT, "digest": {"sha256": _new_model(entry)}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {**entry, "log": _log(row.index, head, path)},
    }
    payload = canonical(statement)
    signature = {"keyid": key.public.id, "sig": _base64(key.sign(PAYLOAD_TYPE, payload))}
    envelope = {
        "payload": _base64(payload),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [signature],
    }
    return canonical(envelope).decode()


def verify_receipt(text: bytes | str, key: PublicKey) -> Receipt:
    """Return the content of a receipt, after verifying it.

    Args:
        text: The receipt exactly as it was issued.
        key: Public key of the issuer.

    Raises:
        VerificationError: The receipt is not valid; the message names the part.
    """
    content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    envelope = parse_canonical(content, "the receipt")
    payload = _payload(envelope, key)
    statement = parse_canonical(payload, "the receipt's statement")
    # A statement of a wrong form raises one of these errors in the checks.
    try:
        return _receipt(statement, key)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise VerificationError(
            f"the receipt's statement does not have the right form: {quoted(repr(error))}"
        ) from None


def _payload(envelope: Mapping[str, Any], key: PublicKey) -> bytes:
    try:
        (signature,) = envelope["signatures"]
        names = set(envelope), set(signature)
        key_id = signature["keyid"]
        payload = _unbase64(envelope["payload"])
        bytes_signed = _unbase64(signature["sig"])
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise VerificationError("the receipt is not a DSSE envelope with one signature") from None
    if names != ({"payload", "payloadType", "signatures"}, {"keyid", "sig"}):
        raise VerificationError("the receipt's envelope contains fields that are not signed")
    if envelope["payloadType"] != PAYLOAD_TYPE:
        raise VerificationError(f"the receipt is not of type {PAYLOAD_TYPE}")
    if key_id != key.id:
        raise VerificationError(
            f"the receipt names key {quoted(key_id)}, not {key.id}; right is its issuer's key"
        )
    key.verify(PAYLOAD_TYPE, payload, bytes_signed, as_made_here=True)
    return payload


def _receipt(statement: Mapping[str, Any], key: PublicKey) -> Receipt:
    predicate = statement["predicate"]
    if not isinstance(predicate, dict):
        raise TypeError("predicate")
    entry = {name: value for name, value in predicate.items() if name != "log"}
    log = predicate["log"]
    model = _new_model(entry)
    expected = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": SUBJECT, "digest": {"sha256": model}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    if statement != expected:
        raise VerificationError("the receipt's subject or types are not those of its entry")
    if any(type(log[name]) is not int or log[name] >= 2**63 for name in ("index", "size")):
        raise TypeError("index and size")
    head = TreeHead(
        log["size"], log["root"], log["time"], log["key_id"], bytes.fromhex(log["signature"])
    )
    path = tuple(bytes.fromhex(step) for step in log["inclusion"])
    if log != _log(log["index"], head, path):
        raise VerificationError("the receipt's proof is not in canonical form")
    head.verify(key)
    leaf = merkle.leaf_hash(canonical(entry))
    merkle.verify_inclusion(bytes.fromhex(head.root), head.size, log["index"], leaf, path)
    return Receipt(entry, model, log["index"], head, path, key.id)


def _log(index: int, head: TreeHead, path: Sequence[bytes]) -> dict[str, object]:
    return {
        "index": index,
        "size": head.size,
        "root": head.root,
        "time": head.time,
        "key_id": head.key_id,
        "signature": head.signature.hex(),
        "inclusion": [step.hex() for step in path],
    }


def _new_model(entry: Mapping[str, object]) -> str:
    model = entry.get("model_after")
    if entry.get("kind") != "removal" or not isinstance(model, str):
        raise VerificationError(
            "an entry of the log does not describe a removal, so it has no receipt"
        )
    return model


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unbase64(text: object) -> bytes:
    if not isinstance(text, str):
        raise TypeError("not a text")
    data = base64.b64decode(text, validate=True)
    if _base64(data) != text:
        raise ValueError("not canonical")
    return data
