"""Makes what a deployment needs for TLS and for SuperNode authentication: for development.

A certificate authority of its own signs one certificate, the SuperLink's; each node gets a key pair
with which it is registered. Whoever holds ``ca.key`` can pose as the SuperLink: in production keep
it elsewhere, or use your organisation's authority.
"""

from __future__ import annotations

import argparse
import datetime
import ipaddress
import os
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

Key = ec.EllipticCurvePrivateKey
LIFETIME = datetime.timedelta(days=90)


def make_keys(folder: Path, hosts: list[str], nodes: list[str]) -> None:
    """Write ``ca.crt``, ``ca.key``, ``server.crt``, ``server.key``, ``NODE.key``, ``NODE.pub``.

    Args:
        folder: Where; made where it is missing. Files that are there are not replaced.
        hosts: Names and IP addresses by which the SuperLink is reached.
        nodes: Names of the SuperNodes.

    Raises:
        FileExistsError: One of the files is there.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = _certificate(
        "fedunlearn development CA", authority, "fedunlearn development CA", authority
    )
    leaf = _certificate(hosts[0], server, "fedunlearn development CA", authority, hosts)
    _write(folder / "ca.crt", root.public_bytes(serialization.Encoding.PEM))
    _write(folder / "server.crt", leaf.public_bytes(serialization.Encoding.PEM))
    _write(folder / "ca.key", _pem(authority, serialization.PrivateFormat.PKCS8), secret=True)
    _write(folder / "server.key", _pem(server, serialization.PrivateFormat.PKCS8), secret=True)
    for node in nodes:
        key = ec.generate_private_key(ec.SECP384R1())  # a curve that Flower takes
        public = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        _write(folder / f"{node}.key", _pem(key, serialization.PrivateFormat.OpenSSH), secret=True)
        _write(folder / f"{node}.pub", public + b"\n")


def _certificate(
    name: str, key: Key, issuer: str, issuer_key: Key, hosts: list[str] | None = None
) -> x509.Certificate:
    """Return a certificate for hosts, or, without, that of the authority."""
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(_named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=hosts is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=hosts is None,
                crl_sign=hosts is None,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if hosts is not None:
        alternatives = x509.SubjectAlternativeName([_alternative(host) for host in hosts])
        builder = builder.add_extension(alternatives, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: Key, form: serialization.PrivateFormat) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _write(path: Path, content: bytes, *, secret: bool = False) -> None:
    """Write a new file, a secret one for its owner alone from the first byte on."""
    mode = 0o600 if secret else 0o644
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Make a development CA and keys.")
    parser.add_argument("folder", type=Path, help="where they go; private keys too")
    parser.add_argument(
        "--host", action="append", required=True, help="by which nodes reach the SuperLink"
    )
    parser.add_argument("--node", action="append", default=[], help="name of a SuperNode")
    arguments = parser.parse_args()
    try:
        make_keys(arguments.folder, arguments.host, arguments.node)
    except OSError as error:
        sys.exit(f"keys: {error.filename}: {error.strerror}; nothing there is replaced")


if __name__ == "__main__":
    main()
