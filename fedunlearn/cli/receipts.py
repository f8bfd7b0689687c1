"""``fedunlearn receipt``: fetch receipts of removals and verify them."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import click

from fedunlearn.cli.connection import Connection, connected, connection_options
from fedunlearn.cli.tables import print_json, print_pairs
from fedunlearn.errors import InputError, VerificationError

_FILE = click.Path(path_type=Path)


@click.group()
def receipt() -> None:
    """Fetch receipts of removals, and verify them offline."""


@receipt.command()
@click.argument("id")
@connection_options
@click.option("--out", type=_FILE, metavar="FILE", help="Also write the receipt to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print the receipt exactly as it was issued.")
def show(connection: Connection, id: str, out: Path | None, as_json: bool) -> None:
    """Show the receipt of a request, verified with the key that the service reports.

    The service itself reports that key: get issuer.pub from another source to verify the receipt.
    """
    from fedunlearn.files import replacing
    from fedunlearn.requests.keys import PublicKey
    from fedunlearn.requests.receipts import verify_receipt

    with connected(connection) as client:
        text = client.receipt(id)
        key = PublicKey.from_pem(client.info().issuer_key)
    found = verify_receipt(text, key)
    if out is not None:
        try:
            with replacing(out) as file:
                file.write(text)
        except OSError as error:
            _refuse(f"--out {out}: cannot be written: {error.strerror}")
    if as_json:
        click.echo(text.decode(), nl=False)
        return
    print_pairs(list(_pairs(dict(found.predicate))))


@receipt.command()
@click.argument("file", type=_FILE, metavar="FILE")
@click.option(
    "--key", type=_FILE, required=True, metavar="PUB", help="The issuer's public key: issuer.pub."
)
@click.option("--model", type=_FILE, metavar="FILE", help="Also check that this is the new model.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def verify(file: Path, key: Path, model: Path | None, as_json: bool) -> None:
    """Verify a receipt offline: signature, log entry, inclusion proof, tree head.

    Exit status 1 if it does not verify.
    """
    from fedunlearn.requests.keys import PublicKey
    from fedunlearn.requests.receipts import verify_receipt

    public = PublicKey.read(key)
    found = verify_receipt(_content(file), public)
    if model is not None and _digest(model) != found.model:
        _mismatch(model, found.model)
    if as_json:
        print_json({"verified": True, "model": found.model, "predicate": found.predicate})
        return
    click.echo(f"verified with key {public.id}")
    print_pairs(list(_pairs(dict(found.predicate))))


def _pairs(value: object, prefix: str = "") -> list[tuple[str, str]]:
    """Flatten the content of a receipt, without its proofs and signatures."""
    if isinstance(value, dict):
        return [
            pair
            for key, below in value.items()
            if key not in {"inclusion", "signature"}
            for pair in _pairs(below, f"{prefix}.{key}" if prefix else str(key))
        ]
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        places = [_pairs(one, f"{prefix}[{place}]") for place, one in enumerate(value)]
        return [pair for pairs in places for pair in pairs]
    if isinstance(value, list):
        return [(prefix, ", ".join(map(str, value)))] if value else []
    return [(prefix, str(value))]


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None


def _digest(file: Path) -> str:
    import hashlib

    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"--model: {file} cannot be read: {error.strerror}") from None


def _mismatch(model: Path, expected: str) -> None:
    raise VerificationError(f"{model} is not the model of the receipt, whose sha256 is {expected}")


def _refuse(message: str) -> NoReturn:
    raise InputError(message)
