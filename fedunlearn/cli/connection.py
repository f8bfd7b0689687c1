"""Connection of client commands to the service, and the conversion of its refusals to errors."""

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
# With these status codes the input is wrong, independent of the state of the service.
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
    """Add the options of a client to a command, which gets them as ``connection``."""

    @click.option(
        "--address",
        envvar="FEDUNLEARN_ADDRESS",
        required=True,
        metavar="HOST:PORT",
        help="Address of the service.  [env: FEDUNLEARN_ADDRESS]",
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
        "--cert-key",
        "certificate_key",
        type=_FILE,
        metavar="FILE",
        help="Private key of the client certificate, PEM.",
    )
    @click.option("--plaintext", is_flag=True, help="Use no TLS; on the loopback interface only.")
    @click.option(
        "--audience",
        envvar="FEDUNLEARN_AUDIENCE",
        metavar="NAME",
        help="Sign for the service of this name only; by default, for the name that it reports.",
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
        connection: Options of the command.

    Yields:
        The client.

    Raises:
        InputError: A file or the address cannot be used, or the service finds the input wrong.
        ServiceError: The service refused, or cannot be reached.
    """
    # Otherwise gRPC adds its own lines to the one-line error message.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from fedunlearn.addresses import is_loopback
    from fedunlearn.requests.keys import PrivateKey
    from fedunlearn.service.client import DeletionClient
    from fedunlearn.service.tls import address_of, content

    host, _ = address_of(connection.address, "--address")
    if connection.plaintext and not is_loopback(host):
        raise InputError(f"--plaintext: {host} is not the loopback interface; use TLS")
    if (connection.certificate is None) != (connection.certificate_key is None):
        raise InputError("--cert: must be given together with --cert-key")
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
            message = f"{error.reason or error.code}: {error}"
            if not error.reason:
                message += _hint(connection, host, message)
            if error.code in _UNUSABLE:
                raise InputError(message) from None
            raise ServiceError(message, code=error.code, reason=error.reason) from None


def _hint(connection: Connection, host: str, message: str) -> str:
    """Return a hint which option may be missing if the service cannot be reached."""
    from fedunlearn.addresses import is_loopback

    if "CERTIFICATE_VERIFY_FAILED" in message:
        return "; --ca: name the authority that signed the service's certificate"
    if connection.plaintext:
        return "; use --ca instead of --plaintext if the service uses TLS"
    return "; use --plaintext if the service uses no TLS" if is_loopback(host) else ""
