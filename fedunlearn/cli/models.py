"""``fedunlearn models``: which model is current, which came before, and taking a removal back."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fedunlearn.cli.serve import database_option, state_option
from fedunlearn.cli.tables import print_json, print_table
from fedunlearn.errors import InputError


@click.group()
def models() -> None:
    """List the models of a federation, or take the last removal back."""


@models.command("list")
@state_option
@database_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
def list_models(state: Path, database: str | None, as_json: bool) -> None:
    """List all models, newest first."""
    from fedunlearn.service.state import open_state

    with open_state(state, database, create=False) as opened:
        found = opened.store.models()
    if as_json:
        listed = [
            {
                "sha256": model.sha256,
                "parent": model.parent,
                "kind": model.kind,
                "created": model.created.isoformat(),
                "current": model.current,
                "file": model.file,
                "rolled_back": model.rolled_back,
                **model.facts,
            }
            for model in found
        ]
        print_json(listed)
        return
    rows = []
    for model in found:
        stands = "current" if model.current else "rolled back" if model.rolled_back else "before"
        made = str(model.facts.get("method", model.kind))
        created = f"{model.created:%Y-%m-%d %H:%M:%S}"
        rows.append((model.sha256, made, created, stands, model.file))
    print_table(("model", "made by", "created (UTC)", "stands", "file"), rows)


@models.command()
@state_option
@database_option
@click.option("--reason", required=True, help="Why; recorded in the log.")
@click.option("--as", "name", default="operator", show_default=True, help="Who does it.")
@click.option("--yes", is_flag=True, help="Without asking.")
def rollback(state: Path, database: str | None, reason: str, name: str, yes: bool) -> None:
    """Make the model before the last removal current again; its requests fail and may be retried.

    What nodes have put out of use stays so: a retry retrains without it.
    """
    from datetime import UTC, datetime

    from fedunlearn.service.state import open_state

    with open_state(state, database, create=False) as opened:
        if not yes:
            _confirm()
        model = opened.store.rollback(f"operator {name}", reason, now=datetime.now(UTC))
    click.echo(f"{model.sha256} is current again")


def _confirm() -> None:
    """Ask whoever sits at a terminal.

    Raises:
        InputError: Nobody does, or the answer is no.
    """
    if not sys.stdin.isatty():
        raise InputError("--yes: nobody can be asked here; give it to go back without being asked")
    if not click.confirm(
        "The model before the last removal holds the removed data. Go back to it?"
    ):
        raise InputError("nothing was changed")
