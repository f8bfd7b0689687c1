"""Keys: kinds and files, what is signed, and that only the right key verifies."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from fedunlearn.errors import KeyFileError, VerificationError
from fedunlearn.requests.keys import Kind, PrivateKey, PublicKey, pae

KINDS: tuple[Kind, ...] = ("ed25519", "p256", "p384")


def test_what_is_signed_is_as_dsse_says() -> None:
    # The example of DSSE's protocol.
    found = pae("http://example.com/HelloWorld", b"hello world")
    assert found == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pae("größe", b"") == b"DSSEv1 7 gr\xc3\xb6\xc3\x9fe 0 "


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_was_signed_verifies(kind: Kind) -> None:
    key, other = PrivateKey.generate(kind), PrivateKey.generate(kind)
    signature = key.sign("a/b", b"payload")
    key.public.verify("a/b", b"payload", signature)
    assert key.sign("a/b", b"payload") == signature
    for type, payload, by in (
        ("a/c", b"payload", key),
        ("a/b", b"payloae", key),
        ("a/b", b"payload", other),
    ):
        with pytest.raises(VerificationError, match="does not verify with key"):
            by.public.verify(type, payload, signature)
    for wrong in (b"", signature[:-1], signature + b"\0", bytes(len(signature))):
        with pytest.raises(VerificationError):
            key.public.verify("a/b", b"payload", wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_is_read_as_it_was_written(kind: Kind, tmp_path: Path) -> None:
    key, path = PrivateKey.generate(kind), tmp_path / "key.pem"
    key.write(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["key.pem"]
    read = PrivateKey.read(path)
    assert read.public == key.public and read.public.id == key.public.id
    assert read.public.kind == kind
    key.public.verify("t", b"p", read.sign("t", b"p"))
    public = tmp_path / "public.pem"
    public.write_text(key.public.pem)
    assert PublicKey.read(public) == key.public
    assert len({key.public, PublicKey.read(public)}) == 1


def test_a_key_takes_no_other_file_s_place(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text("mine")
    with pytest.raises(KeyFileError, match="exists already"):
        PrivateKey.generate().write(path)
    assert path.read_text() == "mine"
    for nowhere in (tmp_path / "nowhere" / "key.pem", path / "key.pem", tmp_path / ("x" * 300)):
        with pytest.raises(KeyFileError, match="cannot be written"):
            PrivateKey.generate().write(nowhere)


@pytest.mark.parametrize(("kind", "bits"), [("ed25519", None), ("ecdsa", 256), ("ecdsa", 384)])
def test_openssh_s_keys_are_read(kind: str, bits: int | None, tmp_path: Path) -> None:
    path = tmp_path / "id"
    size = [] if bits is None else ["-b", str(bits)]
    command = ["ssh-keygen", "-q", "-t", kind, *size, "-N", "", "-f", str(path)]
    try:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        pytest.skip("ssh-keygen is not installed")
    key = PrivateKey.read(path)
    assert PublicKey.read(tmp_path / "id.pub") == key.public
    key.public.verify("t", b"p", key.sign("t", b"p"))


def test_files_that_hold_no_usable_key(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(KeyFileError, match=r"key cannot be read: No such file"):
        PrivateKey.read(path)
    path.write_bytes(b"\xff garbage")
    with pytest.raises(KeyFileError, match="is not a private key; right is PEM"):
        PrivateKey.read(path)
    with pytest.raises(KeyFileError, match="is not a public key; right is PEM"):
        PublicKey.read(path)
    pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    locked = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        *pkcs8, serialization.BestAvailableEncryption(b"secret")
    )
    path.write_bytes(locked)
    with pytest.raises(KeyFileError, match="has a passphrase"):
        PrivateKey.read(path)
    plain = serialization.NoEncryption()
    for wrong in (
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
        ec.generate_private_key(ec.SECP521R1()),
    ):
        path.write_bytes(wrong.private_bytes(*pkcs8, plain))
        with pytest.raises(KeyFileError, match="of an unsupported kind; right is Ed25519"):
            PrivateKey.read(path)
        with pytest.raises(KeyFileError, match="is a private key; right is the public key"):
            PublicKey.read(path)
        path.write_bytes(
            wrong.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        with pytest.raises(KeyFileError, match="of an unsupported kind"):
            PublicKey.read(path)
    with pytest.raises(KeyFileError, match="there is no kind of key 'rsa'"):
        PrivateKey.generate("rsa")  # type: ignore[arg-type]


FIELD = 2**255 - 19
EIGHTH = int.from_bytes(  # from RFC 7748's curve, as libsodium lists it
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)


@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize("y", [0, 1, FIELD - 1, EIGHTH, FIELD - EIGHTH, FIELD, FIELD + 1])
def test_keys_for_which_anyone_can_sign_are_refused(y: int, sign: int) -> None:
    point = ed25519.Ed25519PublicKey.from_public_bytes((y | sign << 255).to_bytes(32, "little"))
    for encoding, form in (
        (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH),
    ):
        with pytest.raises(KeyFileError, match="anyone can sign for it"):
            PublicKey.from_pem(point.public_bytes(encoding, form).decode())


def test_a_compressed_point_in_openssh_s_form_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    form = serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
    parts = b"ecdsa-sha2-nistp256", b"nistp256", key.public_bytes(*form)
    data = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    line = f"ecdsa-sha2-nistp256 {base64.b64encode(data).decode()}"
    with pytest.raises(KeyFileError, match="is not a public key"):
        PublicKey.from_pem(line)
