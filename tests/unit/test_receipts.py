"""Receipts: they repeat, they verify with the public key alone, and with other people's tools."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from google.protobuf import json_format
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError as SecondToolError
from securesystemslib.signer import SSlibKey

from fedunlearn import merkle
from fedunlearn.errors import VerificationError
from fedunlearn.requests.keys import Kind, PrivateKey, pae
from fedunlearn.requests.log import LogRow, TreeHead, canonical
from fedunlearn.requests.receipts import PAYLOAD_TYPE, PREDICATE_TYPE, make_receipt, verify_receipt

KINDS: tuple[Kind, ...] = ("ed25519", "p256", "p384")
NEW = "cd" * 32
ENTRY: dict[str, object] = {
    "kind": "removal",
    "deletion": "7d3c",
    "owner": "Klinik München",
    "model_before": "ab" * 32,
    "model_after": NEW,
    "time": "2026-03-01T12:00:00.000000Z",
    "checks": [{"name": "utility", "threshold": 0.05, "value": 1e-17, "passed": True}],
}
MICROS = 1_772_366_400_000_000


def receipt(key: PrivateKey, entry: dict[str, object] = ENTRY) -> str:
    texts = [b"before", canonical(entry), b"after"]
    leaves = [merkle.leaf_hash(text) for text in texts]
    head = TreeHead.signed(3, merkle.root(leaves), MICROS, key)
    row = LogRow(1, texts[1].decode(), "2026-03-01T12:00:00.000000Z")
    return make_receipt(row, head, merkle.path(merkle.levels(leaves), 1), key)


def signed_again(key: PrivateKey, statement: dict[str, Any]) -> str:
    """Return a receipt that the issuer's own key signs, of any content."""
    payload = canonical(statement)
    return canonical(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [
                {
                    "keyid": key.public.id,
                    "sig": base64.b64encode(key.sign(PAYLOAD_TYPE, payload)).decode(),
                }
            ],
        }
    ).decode()


def statement_of(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(json.loads(text)["payload"]))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_receipt_repeats_and_verifies(kind: Kind) -> None:
    key = PrivateKey.generate(kind)
    text = receipt(key)
    assert text == receipt(key)
    found = verify_receipt(text, key.public)
    assert found == verify_receipt(text.encode(), key.public)
    assert (found.entry, found.model, found.index, found.head.size) == (ENTRY, NEW, 1, 3)
    assert found.predicate == statement_of(text)["predicate"]
    with pytest.raises(VerificationError, match="right is its issuer's key"):
        verify_receipt(text, PrivateKey.generate(kind).public)


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_tool_verifies_a_receipt(kind: Kind) -> None:
    key = PrivateKey.generate(kind)
    text = receipt(key)
    public = serialization.load_pem_public_key(key.public.pem.encode())
    known = SSlibKey.from_crypto(public, keyid=key.public.id)
    envelope = Envelope.from_dict(json.loads(text))
    assert list(envelope.verify([known], 1)) == [key.public.id]
    assert envelope.payload_type == PAYLOAD_TYPE
    envelope.payload += b" "
    with pytest.raises(SecondToolError):
        envelope.verify([known], 1)


def test_the_statement_is_in_toto_s() -> None:
    content = statement_of(receipt(PrivateKey.generate()))
    statement = Statement.copy_from_pb(json_format.ParseDict(content, statement_pb2.Statement()))
    statement.validate()
    assert statement.pb.predicate_type == PREDICATE_TYPE
    subject = ResourceDescriptor.copy_from_pb(statement.pb.subject[0])
    subject.validate()
    assert dict(subject.pb.digest) == {"sha256": NEW}


@pytest.mark.parametrize("kind", KINDS)
def test_openssl_verifies_a_receipt(kind: Kind, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key = PrivateKey.generate(kind)
    envelope = json.loads(receipt(key))
    signature, signed, public = (tmp_path / name for name in ("signature", "signed", "key.pem"))
    signature.write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    public.write_text(key.public.pem)
    digest = {"ed25519": [], "p256": ["-digest", "sha256"], "p384": ["-digest", "sha384"]}[kind]

    def status(payload: bytes) -> int:
        signed.write_bytes(pae(PAYLOAD_TYPE, payload))
        files = ["-pubin", "-inkey", str(public), "-in", str(signed), "-sigfile", str(signature)]
        command = ["openssl", "pkeyutl", "-verify", "-rawin", *digest, *files]
        return subprocess.run(command, capture_output=True).returncode

    payload = base64.b64decode(envelope["payload"])
    assert status(payload) == 0
    assert status(payload + b" ") != 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["predicate"].update(owner="someone"), "does not lead to the root"),
        (lambda s: s["predicate"].update(model_after="ef" * 32), "subject or types"),
        (lambda s: s["subject"][0]["digest"].update(sha256="ef" * 32), "subject or types"),
        (lambda s: s["subject"].append(s["subject"][0]), "subject or types"),
        (lambda s: s.update(predicateType="other"), "subject or types"),
        (lambda s: s.update(more=1), "subject or types"),
        (lambda s: s["predicate"].update(kind="rollback"), "does not describe a removal"),
        (lambda s: s["predicate"]["log"].update(index=2), "too long"),
        (lambda s: s["predicate"]["log"].update(index=3), "outside of a tree"),
        (lambda s: s["predicate"]["log"].update(index=True), "does not have the right form"),
        (lambda s: s["predicate"]["log"].update(index=1.0), "does not have the right form"),
        (lambda s: s["predicate"]["log"].update(index=10**4000), "does not have the right form"),
        (lambda s: s["predicate"]["log"].update(size=4), "signature over"),
        (lambda s: s["predicate"]["log"].update(root="00" * 32), "signature over"),
        (lambda s: s["predicate"]["log"].update(time="now"), "signature over"),
        (lambda s: s["predicate"]["log"].update(key_id="00"), "names key 00"),
        (lambda s: s["predicate"]["log"].update(more=1), "canonical form"),
        (lambda s: s["predicate"]["log"]["inclusion"].append("00" * 32), "too long"),
        (lambda s: s["predicate"]["log"].update(inclusion=["zz"]), "does not have the right form"),
        (lambda s: s["predicate"]["log"].update(inclusion=["AB" * 32]), "canonical form"),
        (lambda s: s["predicate"]["log"].pop("root"), "does not have the right form"),
        (lambda s: s["predicate"].pop("log"), "does not have the right form"),
        (lambda s: s.pop("predicate"), "does not have the right form"),
        (lambda s: s.update(predicate=[]), "does not have the right form"),
    ],
)
def test_a_receipt_that_its_issuer_made_up_is_found(change: Any, message: str) -> None:
    key = PrivateKey.generate()
    statement = statement_of(receipt(key))
    assert signed_again(key, statement) == receipt(key)
    change(statement)
    with pytest.raises(VerificationError, match=message):
        verify_receipt(signed_again(key, statement), key.public)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.update(payloadType="text/plain"), "not of type"),
        (lambda e: e.update(more=1), "fields that are not signed"),
        (lambda e: e["signatures"][0].update(more=1), "fields that are not signed"),
        (lambda e: e["signatures"].append(e["signatures"][0]), "one signature"),
        (lambda e: e["signatures"].clear(), "one signature"),
        (lambda e: e.update(payload="e30"), "not a DSSE envelope"),
        (lambda e: e.update(payload="e31="), "not a DSSE envelope"),
        (lambda e: e.update(payload="e30="), "does not verify"),
        (lambda e: e.update(payload=3), "not a DSSE envelope"),
        (lambda e: e.update(signatures=3), "not a DSSE envelope"),
        (lambda e: e.pop("payload"), "not a DSSE envelope"),
    ],
)
def test_another_envelope_is_found(change: Any, message: str) -> None:
    key = PrivateKey.generate()
    envelope = json.loads(receipt(key))
    change(envelope)
    with pytest.raises(VerificationError, match=message):
        verify_receipt(canonical(envelope), key.public)


def other_of_two(signature: bytes, kind: Kind) -> bytes:
    """Return the other signature that ECDSA takes for the same."""
    curve = ec.SECP256R1 if kind == "p256" else ec.SECP384R1
    r, s = utils.decode_dss_signature(signature)
    return utils.encode_dss_signature(r, curve.group_order - s)


@pytest.mark.parametrize("kind", ["p256", "p384"])
def test_the_other_of_ecdsa_s_two_signatures_is_found(kind: Kind) -> None:
    key = PrivateKey.generate(kind)
    envelope = json.loads(receipt(key))
    signature = envelope["signatures"][0]
    twin = other_of_two(base64.b64decode(signature["sig"]), kind)
    key.public.verify(PAYLOAD_TYPE, base64.b64decode(envelope["payload"]), twin)
    signature["sig"] = base64.b64encode(twin).decode()
    with pytest.raises(VerificationError, match="signature over"):
        verify_receipt(canonical(envelope), key.public)
    statement = statement_of(receipt(key))
    log = statement["predicate"]["log"]
    log["signature"] = other_of_two(bytes.fromhex(log["signature"]), kind).hex()
    with pytest.raises(VerificationError, match="signature over"):
        verify_receipt(signed_again(key, statement), key.public)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + "\n",
        lambda text: text.replace(":", ": ", 1),
        lambda text: "[" + text + "]",
        lambda text: text.replace("{", '{"payload":"",', 1),
        lambda text: "",
        lambda text: "null",
        lambda text: "\ud800",
        lambda text: "[" * 100_000,
        lambda text: '{"a":NaN}',
    ],
)
def test_another_way_of_writing_is_found(change: Any) -> None:
    key = PrivateKey.generate()
    with pytest.raises(VerificationError, match="not JSON in canonical form"):
        verify_receipt(change(receipt(key)), key.public)


def test_only_removals_have_receipts() -> None:
    key = PrivateKey.generate()
    with pytest.raises(VerificationError, match="does not describe a removal"):
        receipt(key, {**ENTRY, "kind": "disposal"})
    with pytest.raises(ValueError, match="must be JSON"):
        canonical({"a": object()})
