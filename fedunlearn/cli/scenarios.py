"""``fedunlearn demo`` and ``fedunlearn run``: one scenario, its table and its files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from fedunlearn.cli.files import require_writable
from fedunlearn.files import write_whole

if TYPE_CHECKING:
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
    _execute(LoadedScenario("demo", Path.cwd(), settings), "flower", out, as_json)


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
    from fedunlearn.evaluation.report import render_report
    from fedunlearn.evaluation.results import to_json
    from fedunlearn.evaluation.table import print_tables
    from fedunlearn.experiments.runner import run_scenario

    with terminal_progress() as progress:
        outcome = run_scenario(loaded, transport=transport, progress=progress)
    document = to_json(outcome.results)
    report = render_report(outcome.results, outcome.evidence)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "results.json", document)
    write_whole(out / "report.html", report)
    if as_json:
        click.echo(document, nl=False)
    else:
        print_tables(outcome.results)
        click.echo(f"\n{out / 'results.json'}\n{out / 'report.html'}")
