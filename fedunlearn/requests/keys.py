"""Keys of owners, operators and the issuer of receipts: Ed25519, and ECDSA on P-256 and P-384.

Signatures are over DSSE's pre-authentication encoding of a type and a payload, so that a signature
of one type of payload is never valid for another type.
Source: https://github.com/secure-systems-lab/dsse/blob/v1.0.2/protocol.md
"""

from __future__ import annotations

import codecs
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from fedunlearn.errors import KeyFileError, VerificationError
from fedunlearn.files import flush_folder

Kind = Literal["ed25519", "p256", "p384"]
_Private = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
_Public = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey
_CURVES: dict[str, Kind] = {"secp256r1": "p256", "secp384r1": "p384"}
_HASHES: dict[str, type[hashes.HashAlgorithm]] = {"p256": hashes.SHA256, "p384": hashes.SHA384}
_RIGHT = "Ed25519, or ECDSA on P-256 or P-384"
# The library raises NotImplementedError for a compressed point in OpenSSH's format.
_UNREADABLE = (ValueError, UnsupportedAlgorithm, NotImplementedError)
# The field of Curve25519, and y of its eight points of small order, for which anyone can sign.
_FIELD = 2**255 - 19
_EIGHTH = 2707385501144840649318225287225658788936804267575313519463743609750303402022
_SMALL_ORDER = frozenset({0, 1, _EIGHTH, _FIELD - _EIGHTH, _FIELD - 1})


def pae(type: str, payload: bytes) -> bytes:
    """Return the bytes to sign: DSSE's pre-authentication encoding, version 1."""
    name = type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(name), name, len(payload), payload)


@dataclass(frozen=True)
class PublicKey:
    """A public key, which verifies signatures.

    Attributes:
        pem: SubjectPublicKeyInfo of the key in PEM.
        id: sha256 of the SubjectPublicKeyInfo in DER, hexadecimal.
        kind: Ed25519, or the curve of ECDSA.
    """

    pem: str
    id: str = field(compare=False)
    kind: Kind = field(compare=False)
    _key: _Public = field(compare=False, repr=False)

    @classmethod
    def read(cls, path: Path) -> PublicKey:
        """Return the public key in a file: PEM, or one line in OpenSSH's format.

        Raises:
            KeyFileError: The file is missing or damaged, or has a private key or one of an
                unsupported kind.
        """
        return cls.from_pem(_content(path).decode("utf-8", "replace"), where=str(path))

    @classmethod
    def from_pem(cls, text: str, *, where: str = "the key") -> PublicKey:
        """Return the public key in a text: PEM, or one line in OpenSSH's format.

        Args:
            text: The key.
            where: Name of the key in error messages.

        Raises:
            KeyFileError: The key is damaged, private, or of an unsupported kind.
        """
        if "PRIVATE KEY" in text:
            raise KeyFileError(f"{where} is a private key; right is the public key")
        try:
            data = text.strip().encode()
            if text.lstrip().startswith("-----BEGIN"):
                key = serialization.load_pem_public_key(data)
            else:
                key = serialization.load_ssh_public_key(data)
        except _UNREADABLE:
            raise KeyFileError(
                f"{where} is not a public key; right is PEM or a line of OpenSSH, {_RIGHT}"
            ) from None
        return _public(key, where)

    def verify(
        self, type: str, payload: bytes, signature: bytes, *, as_made_here: bool = False
    ) -> None:
        """Check a signature.

        Args:
            type: Media type of the payload.
            payload: The signed bytes.
            signature: Signature over type and payload.
            as_made_here: Whether to accept, of the two valid ECDSA signatures that can be computed
                from each other, only the one that ``PrivateKey.sign`` returns.

        Raises:
            VerificationError: The signature is not this key's over this type and payload.
        """
        wrong = VerificationError(f"the signature over {type} does not verify with key {self.id}")
        try:
            if isinstance(self._key, ed25519.Ed25519PublicKey):
                self._key.verify(signature, pae(type, payload))
                return
            digest = ec.ECDSA(_HASHES[self.kind]())
            self._key.verify(signature, pae(type, payload), digest)
        except InvalidSignature:
            raise wrong from None
        if as_made_here and _low(signature, self._key.curve) != signature:
            raise wrong


@dataclass(frozen=True)
class PrivateKey:
    """A private key, which signs.

    Attributes:
        public: The public key, which verifies the signatures.
    """

    public: PublicKey
    _key: _Private = field(compare=False, repr=False)

    @classmethod
    def generate(cls, kind: Kind = "ed25519") -> PrivateKey:
        """Return a new key.

        Raises:
            KeyFileError: There is no such kind.
        """
        key: _Private
        if kind == "ed25519":
            key = ed25519.Ed25519PrivateKey.generate()
        elif kind in _HASHES:
            key = ec.generate_private_key(ec.SECP256R1() if kind == "p256" else ec.SECP384R1())
        else:
            raise KeyFileError(f"there is no kind of key {kind!r}; right is ed25519, p256 or p384")
        return cls(_public(key.public_key(), "the key"), key)

    @classmethod
    def read(cls, path: Path) -> PrivateKey:
        """Return the key in a file: PKCS 8 in PEM, or OpenSSH's format, without a passphrase.

        Raises:
            KeyFileError: The file is missing or damaged, or the key has a passphrase or an
                unsupported kind.
        """
        data = _content(path)
        openssh = b"BEGIN OPENSSH PRIVATE KEY" in data
        load = serialization.load_ssh_private_key if openssh else serialization.load_pem_private_key
        try:
            key = load(data, password=None)
        except TypeError:
            raise KeyFileError(f"{path} has a passphrase; right is a key without one") from None
        except _UNREADABLE:
            raise KeyFileError(
                f"{path} is not a private key; right is PEM (PKCS 8) or OpenSSH, {_RIGHT}"
            ) from None
        if not isinstance(key, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey):
            raise KeyFileError(f"{path} is of an unsupported kind; right is {_RIGHT}")
        return cls(_public(key.public_key(), str(path)), key)

    def write(self, path: Path) -> None:
        """Write the key atomically to a new file that only its owner can read.

        Raises:
            KeyFileError: The file exists already, or its folder does not exist.
        """
        data = self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        part = path.with_name(f"{path.name}.part")
        try:
            part.unlink(missing_ok=True)
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with open(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(descriptor)
                # Unlike a rename, a link never replaces another file.
                os.link(part, path)
            finally:
                part.unlink(missing_ok=True)
        except FileExistsError:
            raise KeyFileError(f"{path} exists already; right is a new name") from None
        except OSError as error:
            raise KeyFileError(f"{path} cannot be written: {error.strerror}") from None
        flush_folder(path.parent)

    def sign(self, type: str, payload: bytes) -> bytes:
        """Sign a payload of a type deterministically (ECDSA: RFC 6979).

        Args:
            type: Media type of the payload.
            payload: The bytes to sign.

        Returns:
            Ed25519: 64 bytes. ECDSA: DER, with SHA-256 for P-256 and SHA-384 for P-384; of the two
            valid signatures, the one with the smaller s.
        """
        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return self._key.sign(pae(type, payload))
        digest = _HASHES[self.public.kind]()
        made = self._key.sign(pae(type, payload), ec.ECDSA(digest, deterministic_signing=True))
        return _low(made, self._key.curve)


def _low(signature: bytes, curve: ec.EllipticCurve) -> bytes:
    r, s = decode_dss_signature(signature)
    return encode_dss_signature(r, min(s, curve.group_order - s))


def _public(key: object, where: str) -> PublicKey:
    kind: Kind | None = None
    if isinstance(key, ed25519.Ed25519PublicKey):
        kind = "ed25519"
    elif isinstance(key, ec.EllipticCurvePublicKey):
        kind = _CURVES.get(key.curve.name)
    if kind is None or not isinstance(key, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey):
        raise KeyFileError(f"{where} is of an unsupported kind; right is {_RIGHT}")
    if isinstance(key, ed25519.Ed25519PublicKey) and _is_weak(key):
        raise KeyFileError(
            f"{where} is weak: anyone can sign for it; right is a key from 'keys generate'"
        )
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    der = key.public_bytes(serialization.Encoding.DER, form)
    pem = key.public_bytes(serialization.Encoding.PEM, form).decode()
    return PublicKey(pem, hashlib.sha256(der).hexdigest(), kind, key)


def _is_weak(key: ed25519.Ed25519PublicKey) -> bool:
    """Return whether a point has small order, or a second encoding, which has a second id."""
    y = int.from_bytes(key.public_bytes_raw(), "little") & (2**255 - 1)
    return y >= _FIELD or y in _SMALL_ORDER


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}") from None
