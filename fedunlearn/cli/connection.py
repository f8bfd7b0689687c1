"""How client commands find the service, and what becomes of its refusals."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedunlearn.errors import InputError, ServiceError

if TYPE_CHECKING:
    from fedunlearn.service.client import DeletionClient

_FILE = click.Path(path_type=Path)
# What the caller gave was wrong, whatever the state of the service.
_UNUSABLE = frozenset({"INVALID_ARGUMENT", "NOT_FOUND"})


@dataclass(frozen=True)
class Connection:
    """The options of a client command."""

    address: str
    key: Path | None
    ca: Path | None
    certificate: Path | None
    certificate_key: Path | None
    plaintext: bool
    audience: str | None


def connection_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a client; it gets them as ``connection``."""

    @click.option(
        "--address",
        envvar="FEDUNLEARN_ADDRESS",
        required=True,
        metavar="HOST:PORT",
        help="The service.  [env: FEDUNLEARN_ADDRESS]",
    )
    @click.option(
        "--key",
        envvar="FEDUNLEARN_KEY",
        type=_FILE,
        metavar="FILE",
        help="Private key to sign with.  [env: FEDUNLEARN_KEY]",
    )
    @click.option(
        "--ca",
        envvar="FEDUNLEARN_CA",
        type=_FILE,
        metavar="FILE",
        help="Certificate authority of the service, PEM.  [env: FEDUNLEARN_CA]",
    )
    @click.option(
        "--cert", "certificate", type=_FILE, metavar="FILE", help="Client certificate, PEM."
    )
    @click.option(
        "--cert-key", "certificate_key", type=_FILE, metavar="FILE", help="Its private key, PEM."
    )
    @click.option("--plaintext", is_flag=True, help="No TLS; on the loopback interface only.")
    @click.option(
        "--audience",
        envvar="FEDUNLEARN_AUDIENCE",
        metavar="NAME",
        help="Sign for this service alone; left out, for what it calls itself.",
    )
    @functools.wraps(command)
    def wrapped(
        address: str,
        key: Path | None,
        ca: Path | None,
        certificate: Path | None,
        certificate_key: Path | None,
        plaintext: bool,
        audience: str | None,
        **others: Any,
    ) -> None:
        connection = Connection(address, key, ca, certificate, certificate_key, plaintext, audience)
        command(connection=connection, **others)

    return wrapped


@contextmanager
def connected(connection: Connection) -> Iterator[DeletionClient]:
    """Connect to the service.

    Args:
        connection: As the options say.

    Yields:
        The client.

    Raises:
        InputError: A file or the address cannot be used, or the service finds the input wrong.
        ServiceError: The service refused, or cannot be reached.
    """
    # gRPC would add lines of its own to the one that says what is wrong.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from fedunlearn.addresses import is_loopback
    from fedunlearn.requests.keys import PrivateKey
    from fedunlearn.service.client import DeletionClient
    from fedunlearn.service.tls import address_of, content

    host, _ = address_of(connection.address, "--address")
    if connection.plaintext and not is_loopback(host):
        raise InputError(f"--plaintext: {host} is not the loopback interface; use TLS")
    if (connection.certificate is None) != (connection.certificate_key is None):
        raise InputError("--cert: needs --cert-key beside it, and the other way round")
    if connection.key is None and connection.certificate is None:
        raise InputError("--key: give the private key to sign with, or set FEDUNLEARN_KEY")

    def read(path: Path | None, option: str) -> bytes | None:
        return None if path is None else content(path, option)

    with DeletionClient(
        connection.address,
        None if connection.key is None else PrivateKey.read(connection.key),
        plaintext=connection.plaintext,
        audience=connection.audience,
        root_certificates=read(connection.ca, "--ca"),
        certificate=read(connection.certificate, "--cert"),
        certificate_key=read(connection.certificate_key, "--cert-key"),
    ) as client:
        try:
            yield client
        except ServiceError as error:
            said = f"{error.reason or error.code}: {error}"
            if not error.reason:
                said += _hint(connection, host, said)
            if error.code in _UNUSABLE:
                raise InputError(said) from None
            raise ServiceError(said, code=error.code, reason=error.reason) from None


def _hint(connection: Connection, host: str, said: str) -> str:
    """Return what may be right where the service cannot be reached in this way."""
    from fedunlearn.addresses import is_loopback

    if "CERTIFICATE_VERIFY_FAILED" in said:
        return "; --ca: name the authority that signed the service's certificate"
    if connection.plaintext:
        return "; --ca in the place of --plaintext, where it serves with TLS"
    return "; --plaintext, where it serves without TLS" if is_loopback(host) else ""
