"""``fedunlearn models``: list the models, and roll the last removal back."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fedunlearn.cli.serve import database_option, state_option
from fedunlearn.cli.tables import print_json, print_table
from fedunlearn.errors import InputError


@click.group()
def models() -> None:
    """List the models of a federation, or roll the last removal back."""


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
        status = "current" if model.current else "rolled back" if model.rolled_back else "earlier"
        made = str(model.facts.get("method", model.kind))
        created = f"{model.created:%Y-%m-%d %H:%M:%S}"
        rows.append((model.sha256, made, created, status, model.file))
    print_table(("model", "made by", "created (UTC)", "status", "file"), rows)


@models.command()
@state_option
@database_option
@click.option("--reason", required=True, help="Reason, which is recorded in the log.")
@click.option("--as", "name", default="operator", show_default=True, help="Name of the operator.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def rollback(state: Path, database: str | None, reason: str, name: str, yes: bool) -> None:
    """Restore the model before the last removal; its requests fail and can be retried.

    Nodes still do not use data that they have marked as removed: a retry retrains without them.
    """
    from datetime import UTC, datetime

    from fedunlearn.service.state import open_state

    with open_state(state, database, create=False) as opened:
        if not yes:
            _confirm()
        model = opened.store.rollback(f"operator {name}", reason, now=datetime.now(UTC))
    click.echo(f"{model.sha256} is current again")


def _confirm() -> None:
    """Ask for confirmation at the terminal.

    Raises:
        InputError: There is no terminal, or the answer is no.
    """
    if not sys.stdin.isatty():
        raise InputError("--yes: there is no terminal to confirm at; give --yes to confirm")
    if not click.confirm(
        "The model before the last removal contains the removed data. Restore it?"
    ):
        raise InputError("nothing was changed")
