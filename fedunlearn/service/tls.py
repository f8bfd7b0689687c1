"""TLS of the service: when plain text is allowed, and which key a client's certificate holds."""

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
        text: ``HOST:PORT``; an IPv6 address is in brackets.
        key: Name of the setting, for errors.

    Returns:
        Host, without brackets, and port.

    Raises:
        InputError: The text is not an address.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise InputError(
            f"{key}: {text!r} is not an address; use HOST:PORT, such as 127.0.0.1:50061"
        )
    return host, int(port)


def server_credentials(settings: ServiceSettings) -> grpc.ServerCredentials | None:
    """Return the credentials to listen with; None for plain text on the loopback interface.

    Args:
        settings: Settings with the paths of the TLS files.

    Returns:
        TLS credentials, which require client certificates if there is a client CA.

    Raises:
        InputError: A file cannot be read, or plain text would cross a network.
    """
    host, _ = address_of(settings.listen, "listen")
    if settings.tls_certificate is None or settings.tls_key is None:
        if not is_loopback(host):
            raise InputError(
                f"listen: {settings.listen} is not the loopback interface; give --tls-cert and "
                "--tls-key, as requests must not cross a network in plain text"
            )
        return None
    pair = (content(settings.tls_key, "tls-key"), content(settings.tls_certificate, "tls-cert"))
    _check_pair(settings.tls_certificate, *pair)
    clients = _authorities(settings.client_ca) if settings.client_ca else None
    # With a client CA, every client needs a certificate, also those that sign their calls.
    return grpc.ssl_server_credentials(
        [pair], root_certificates=clients, require_client_auth=clients is not None
    )


def content(path: Path, key: str) -> bytes:
    """Return the content of a PEM file.

    Args:
        path: Path of the file.
        key: Name of the setting, for errors.

    Returns:
        The bytes of the file.

    Raises:
        InputError: The file cannot be read, or is not in PEM.
    """
    try:
        data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise InputError(f"{key}: {path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise InputError(f"{key}: {str(path)!r} is not a valid path") from None
    if b"-----BEGIN " not in data:
        raise InputError(f"{key}: {path} is not a PEM file")
    return data


@lru_cache(maxsize=1024)
def certified_key_id(certificate: bytes) -> str | None:
    """Return the id of the key in a certificate, under which keys are registered.

    Args:
        certificate: The certificate in PEM.

    Returns:
        sha256 of the SubjectPublicKeyInfo, hexadecimal; None if the certificate cannot be read.
    """
    try:
        key = x509.load_pem_x509_certificate(certificate).public_key()
    except _UNREADABLE:
        return None
    return hashlib.sha256(_spki(key)).hexdigest()


def _authorities(path: Path) -> bytes:
    """Return the certificates of a file; gRPC would report a damaged one as a port in use."""
    data = content(path, "client-ca")
    try:
        x509.load_pem_x509_certificates(data)
    except _UNREADABLE:
        raise InputError(f"client-ca: {path} contains no valid certificate") from None
    return data


def _check_pair(path: Path, key: bytes, certificate: bytes) -> None:
    """Refuse a wrong pair of key and certificate, which gRPC would report as a port in use.

    Raises:
        InputError: The key and the certificate do not match, or cannot be read.
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
