"""``fedunlearn ledger``: verify and export the log, and prove that rows were only appended."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from fedunlearn.cli.serve import database_option
from fedunlearn.cli.tables import print_json, print_table
from fedunlearn.errors import InputError, VerificationError

if TYPE_CHECKING:
    from fedunlearn.requests.ledger import Finding
    from fedunlearn.requests.log import TreeHead

_FILE = click.Path(path_type=Path)


@click.group()
def ledger() -> None:
    """Verify and export the log of keys, commitments, models and removals."""


@ledger.command()
@click.argument("file", type=_FILE, metavar="[FILE]", required=False)
@click.option("--state", type=_FILE, metavar="DIR", help="State folder of a service, with models.")
@database_option
@click.option(
    "--key", type=_FILE, metavar="PUB", help="The issuer's public key; needed for an exported FILE."
)
@click.option(
    "--since",
    type=_FILE,
    metavar="HEAD",
    help="Also check that the log has only grown since this tree head, receipt or exported ledger.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def verify(
    file: Path | None,
    state: Path | None,
    database: str | None,
    key: Path | None,
    since: Path | None,
    as_json: bool,
) -> None:
    """Verify the log of a state folder, or FILE: an exported ledger, or a proof of 'ledger prove'.

    For a state folder, the requests, receipts and model files are verified too. Exit status 1 if an
    error is found.
    """
    if (file is None) == (state is None):
        _refuse("give either a FILE with --key, or --state DIR")
    if file is not None:
        if key is None:
            _refuse("--key: a file is verified with the issuer's public key")
        findings = _of_file(file, key, since)
    else:
        assert state is not None
        findings = _of_state(state, database, key, since)
    if as_json:
        listed = [{"what": one.what, "where": one.where} for one in findings]
        print_json({"verified": not findings, "findings": listed})
    elif findings:
        print_table(("where", "error"), [(one.where, one.what) for one in findings])
    else:
        click.echo(f"{file or state}: verified, no errors")
    if findings:
        click.get_current_context().exit(1)


_state_option = click.option(
    "--state", type=_FILE, required=True, metavar="DIR", help="State folder."
)
_out_option = click.option(
    "--out", type=_FILE, metavar="FILE", help="Write to this file instead of printing."
)


@ledger.command()
@_state_option
@database_option
@_out_option
def export(state: Path, database: str | None, out: Path | None) -> None:
    """Print the log with its tree heads, keys and receipts, which anyone can verify."""
    from fedunlearn.requests.ledger import export_ledger
    from fedunlearn.service.state import open_state

    with open_state(state, database, create=False) as opened:
        _print(export_ledger(opened.store), out)


@ledger.command()
@_state_option
@database_option
@_out_option
def head(state: Path, database: str | None, out: Path | None) -> None:
    """Print the newest signed tree head, for others to store.

    'ledger prove' and 'ledger verify' show later that the log still contains all rows under it.
    """
    from fedunlearn.requests.consistency import head_document
    from fedunlearn.service.state import open_state

    with open_state(state, database, create=False) as opened:
        found = opened.store.last_head()
    if found is None:
        _refuse(f"{state}: the log has no rows yet")
    _print(head_document(found), out)


@ledger.command()
@click.option(
    "--since",
    type=_FILE,
    required=True,
    metavar="HEAD",
    help="The older tree head: output of 'ledger head', a receipt, or an exported ledger.",
)
@_state_option
@database_option
@_out_option
def prove(since: Path, state: Path, database: str | None, out: Path | None) -> None:
    """Print a proof that the log has only grown since an older tree head.

    'fedunlearn ledger verify PROOF --since HEAD --key PUB' verifies it without the log. Exit status
    1 if the log does not begin with the rows under that head.
    """
    from fedunlearn.requests.consistency import prove_consistency
    from fedunlearn.service.state import open_state

    with open_state(state, database, create=False) as opened:
        _print(prove_consistency(opened.store, _head_in(since)), out)


def _print(document: Mapping[str, object], out: Path | None) -> None:
    """Print JSON, or write it to a file."""
    from fedunlearn.files import write_whole

    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    if out is None:
        click.echo(text, nl=False)
        return
    try:
        write_whole(out, text)
    except OSError as error:
        _refuse(f"--out {out}: cannot be written: {error.strerror}")
    click.echo(out)


def _of_state(
    state: Path, database: str | None, key: Path | None, since: Path | None
) -> Sequence[Finding]:
    from fedunlearn.requests.keys import PublicKey
    from fedunlearn.requests.ledger import verify_ledger
    from fedunlearn.service.state import open_state

    with open_state(state, database, create=False) as opened:
        public = opened.issuer.public if key is None else PublicKey.read(key)
        older = None if since is None else _head_in(since)
        return verify_ledger(opened.store, public, opened.models, older)


def _of_file(file: Path, key: Path, since: Path | None) -> Sequence[Finding]:
    from fedunlearn.requests.consistency import FORMAT, verify_consistency
    from fedunlearn.requests.findings import Finding
    from fedunlearn.requests.keys import PublicKey
    from fedunlearn.requests.ledger import verify_export

    public = PublicKey.read(key)
    older = None if since is None else _head_in(since)
    document = _read(file, "'fedunlearn ledger export' writes it")
    if document.get("format") != FORMAT:
        return verify_export(document, public, older)
    if older is None:
        _refuse(
            "--since: a proof of consistency is verified with the older tree head; give its file"
        )
    try:
        verify_consistency(document, public, older)
    except VerificationError as error:
        return [Finding(str(error), "the proof of consistency")]
    return []


def _head_in(file: Path) -> TreeHead:
    from fedunlearn.requests.consistency import last_head_in

    document = _read(file, "give a tree head, a receipt or an exported ledger")
    try:
        return last_head_in(document)
    except (InputError, VerificationError) as error:
        raise InputError(f"--since {file}: {error}") from None


def _read(file: Path, remedy: str) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{file} is not JSON; {remedy}") from None
    if not isinstance(document, dict):
        raise InputError(f"{file} is not a JSON object; {remedy}")
    return document


def _refuse(message: str) -> NoReturn:
    raise InputError(message)
