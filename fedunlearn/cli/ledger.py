"""``fedunlearn ledger``: the log of all that was done, verified and exported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from fedunlearn.cli.serve import database_option
from fedunlearn.cli.tables import print_json, print_table
from fedunlearn.errors import InputError

if TYPE_CHECKING:
    from fedunlearn.requests.ledger import Finding

_FILE = click.Path(path_type=Path)


@click.group()
def ledger() -> None:
    """Verify and export the log of keys, commitments, models and removals."""


@ledger.command()
@click.argument("file", type=_FILE, metavar="[FILE]", required=False)
@click.option("--state", type=_FILE, metavar="DIR", help="A service's state folder, with models.")
@database_option
@click.option(
    "--key", type=_FILE, metavar="PUB", help="The issuer's public key; needed for an exported FILE."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def verify(
    file: Path | None, state: Path | None, database: str | None, key: Path | None, as_json: bool
) -> None:
    """Verify the log of a state folder, or one exported to FILE.

    Of a state folder also the requests, receipts and model files. Exit status 1 if anything does
    not hold.
    """
    if (file is None) == (state is None):
        _refuse("give either an exported FILE with --key, or --state DIR")
    if file is not None:
        if key is None:
            _refuse("--key: an exported file is verified with the issuer's public key")
        findings = _of_file(file, key)
    else:
        findings = _of_state(state, database, key)
    if as_json:
        listed = [{"what": one.what, "where": one.where} for one in findings]
        print_json({"verified": not findings, "findings": listed})
    elif findings:
        print_table(("where", "what does not hold"), [(one.where, one.what) for one in findings])
    else:
        click.echo(f"{file or state}: all holds")
    if findings:
        click.get_current_context().exit(1)


@ledger.command()
@click.option("--state", type=_FILE, required=True, metavar="DIR", help="State folder.")
@database_option
@click.option("--out", type=_FILE, metavar="FILE", help="Write it there instead of printing it.")
def export(state: Path, database: str | None, out: Path | None) -> None:
    """Print the log with its tree heads, keys and receipts, to be verified by anyone."""
    from fedunlearn.files import write_whole
    from fedunlearn.requests.ledger import export_ledger
    from fedunlearn.service.state import open_state

    with open_state(state, database, create=False) as opened:
        document = json.dumps(export_ledger(opened.store), indent=2, ensure_ascii=False) + "\n"
    if out is None:
        click.echo(document, nl=False)
        return
    try:
        write_whole(out, document)
    except OSError as error:
        _refuse(f"--out {out}: cannot be written: {error.strerror}")
    click.echo(out)


def _of_state(state: Path | None, database: str | None, key: Path | None) -> Sequence[Finding]:
    from fedunlearn.requests.keys import PublicKey
    from fedunlearn.requests.ledger import verify_ledger
    from fedunlearn.service.state import open_state

    assert state is not None
    with open_state(state, database, create=False) as opened:
        public = opened.issuer.public if key is None else PublicKey.read(key)
        return verify_ledger(opened.store, public, opened.models)


def _of_file(file: Path, key: Path | None) -> Sequence[Finding]:
    from fedunlearn.requests.keys import PublicKey
    from fedunlearn.requests.ledger import verify_export

    assert key is not None
    public = PublicKey.read(key)
    try:
        document = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{file} is no JSON; 'fedunlearn ledger export' writes it") from None
    return verify_export(document, public)


def _refuse(message: str) -> NoReturn:
    raise InputError(message)
