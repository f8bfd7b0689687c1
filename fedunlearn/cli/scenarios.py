"""``fedunlearn demo`` and ``fedunlearn run``: one scenario, its table and its files."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from fedunlearn.cli.files import require_writable
from fedunlearn.errors import VerificationError
from fedunlearn.files import write_whole

if TYPE_CHECKING:
    from fedunlearn.lab.runner import Outcome
    from fedunlearn.scenario.loading import LoadedScenario

Transport = Literal["inline", "flower"]

overrides_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Change one setting; VALUE as in TOML, a bare word is a string. Repeatable.",
)
out_option = click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("out"),
    show_default=True,
    metavar="DIR",
    help="Where results.json and report.html go.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print results.json instead of the table."
)


@click.command()
@overrides_option
@out_option
@json_option
def demo(overrides: tuple[str, ...], out: Path, as_json: bool) -> None:
    """Train on digits over 10 nodes, let the largest leave, remove its influence, compare."""
    from fedunlearn.scenario.loading import LoadedScenario, parse_scenario

    settings = parse_scenario({}, overrides, "demo")
    loaded = LoadedScenario("demo", Path.cwd(), settings)
    require_writable(out)
    from fedunlearn.cli.progress import terminal_progress
    from fedunlearn.lab.demonstration import demonstrate

    with terminal_progress() as progress:
        shown = demonstrate(loaded, transport="flower", progress=progress)
    _write(shown.outcome, out, shown.files, as_json)
    if shown.failure:
        raise VerificationError(f"not every request was removed: {shown.failure}")


@click.command()
@click.argument("scenario", type=click.Path(path_type=Path), metavar="SCENARIO.toml")
@overrides_option
@click.option(
    "--transport",
    type=click.Choice(["inline", "flower"]),
    default="inline",
    show_default=True,
    help="Nodes in this process, or on Flower's simulation engine.",
)
@out_option
@json_option
def run(
    scenario: Path, overrides: tuple[str, ...], transport: Transport, out: Path, as_json: bool
) -> None:
    """Run one scenario: train, unlearn, retrain, compare."""
    from fedunlearn.scenario.loading import load_scenario

    _execute(load_scenario(scenario, overrides), transport, out, as_json)


def _execute(loaded: LoadedScenario, transport: Transport, out: Path, as_json: bool) -> None:
    require_writable(out)
    from fedunlearn.cli.progress import terminal_progress
    from fedunlearn.lab.runner import run_scenario

    with terminal_progress() as progress:
        outcome = run_scenario(loaded, transport=transport, progress=progress)
    _write(outcome, out, {}, as_json)


def _write(outcome: Outcome, out: Path, beside: Mapping[str, str], as_json: bool) -> None:
    """Write results, report and what belongs beside them, and print the table."""
    from fedunlearn.reporting.report import render_report
    from fedunlearn.reporting.results import to_json
    from fedunlearn.reporting.table import print_tables

    document = to_json(outcome.results)
    report = render_report(outcome.results, outcome.evidence)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "results.json", document)
    write_whole(out / "report.html", report)
    for name, text in beside.items():
        write_whole(out / name, text)
    if as_json:
        click.echo(document, nl=False)
    else:
        print_tables(outcome.results)
        _print_deletions(outcome.results)
        click.echo("\n" + "\n".join(str(out / n) for n in ("results.json", "report.html", *beside)))


def _print_deletions(results: Mapping[str, Any]) -> None:
    """Say what became of the requests that went through the service."""
    for deletion in results.get("deletions", ()):
        first, last = (deletion["events"][place]["time"] for place in (0, -1))
        took = (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()
        line = f"\nrequest of {deletion['owner']}: {deletion['state']} after {took:.1f} s"
        if "receipt" in deletion:
            line += "; the receipt verifies"
        click.echo(f"{line}: {deletion['reason']}" if deletion["reason"] else line)
