"""TLS of the service: when it may be left out, and whose key a client's certificate holds."""

from __future__ import annotations

import codecs
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from fedunlearn.addresses import is_loopback
from fedunlearn.errors import InputError

if TYPE_CHECKING:
    from fedunlearn.service.service_settings import ServiceSettings

_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm)


def address_of(text: str, key: str) -> tuple[str, int]:
    """Split an address to listen on.

    Args:
        text: ``HOST:PORT``, an IPv6 address in brackets.
        key: Names the setting in errors.

    Returns:
        Host, without brackets, and port.

    Raises:
        InputError: It is none.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise InputError(f"{key}: {text!r} is no address; use HOST:PORT, as 127.0.0.1:50061")
    return host, int(port)


def server_credentials(settings: ServiceSettings) -> grpc.ServerCredentials | None:
    """Return the credentials to listen with; None for plain text on the loopback interface.

    Args:
        settings: Name the files.

    Returns:
        TLS, with client certificates where there is a client CA.

    Raises:
        InputError: A file cannot be read, or plain text would go over a network.
    """
    host, _ = address_of(settings.listen, "listen")
    if settings.tls_certificate is None or settings.tls_key is None:
        if not is_loopback(host):
            raise InputError(
                f"listen: {settings.listen} is not the loopback interface; give --tls-cert and "
                "--tls-key, requests must not cross a network in plain text"
            )
        return None
    pair = (content(settings.tls_key, "tls-key"), content(settings.tls_certificate, "tls-cert"))
    _check_pair(settings.tls_certificate, *pair)
    clients = _authorities(settings.client_ca) if settings.client_ca else None
    # A client without a certificate may sign its calls instead only where none is asked for.
    return grpc.ssl_server_credentials(
        [pair], root_certificates=clients, require_client_auth=clients is not None
    )


def content(path: Path, key: str) -> bytes:
    """Return what is in a file of PEM.

    Args:
        path: The file.
        key: Names the setting in errors.

    Returns:
        Its bytes.

    Raises:
        InputError: It cannot be read, or holds no PEM.
    """
    try:
        data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise InputError(f"{key}: {path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise InputError(f"{key}: {str(path)!r} is no path of a file") from None
    if b"-----BEGIN " not in data:
        raise InputError(f"{key}: {path} is no PEM file")
    return data


@lru_cache(maxsize=1024)
def certified_key_id(certificate: bytes) -> str | None:
    """Return the id of the key in a certificate, as keys are registered by it.

    Args:
        certificate: PEM.

    Returns:
        sha256 of the SubjectPublicKeyInfo, hexadecimal; None where it cannot be read.
    """
    try:
        key = x509.load_pem_x509_certificate(certificate).public_key()
    except _UNREADABLE:
        return None
    return hashlib.sha256(_spki(key)).hexdigest()


def _authorities(path: Path) -> bytes:
    """Return the certificates of a file, of which gRPC would only say that the port is taken."""
    data = content(path, "client-ca")
    try:
        x509.load_pem_x509_certificates(data)
    except _UNREADABLE:
        raise InputError(f"client-ca: {path} holds no certificate, or a damaged one") from None
    return data


def _check_pair(path: Path, key: bytes, certificate: bytes) -> None:
    """Refuse a pair of which gRPC would only say that the port cannot be had.

    Raises:
        InputError: They do not belong together, or cannot be read.
    """
    try:
        private = serialization.load_pem_private_key(key, None)
        public = x509.load_pem_x509_certificate(certificate).public_key()
    except _UNREADABLE:
        raise InputError(f"tls-cert: {path} or its tls-key is damaged or encrypted") from None
    if _spki(private.public_key()) != _spki(public):
        raise InputError(f"tls-cert: {path} is not the certificate of tls-key")


def _spki(key: object) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    data: bytes = key.public_bytes(serialization.Encoding.DER, form)  # type: ignore[attr-defined]
    return data
