"""``fedunlearn demo`` and ``fedunlearn run``: one scenario with its table and its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from fedunlearn.cli.files import require_writable
from fedunlearn.cli.lab_options import json_option, out_option, overrides_option
from fedunlearn.errors import VerificationError
from fedunlearn.files import write_whole

if TYPE_CHECKING:
    from fedunlearn.lab.measuring import Measured
    from fedunlearn.reporting.results import Results

Transport = Literal["inline", "flower"]

_out_option = out_option("out", "results.json and report.html")
_json_option = json_option("results.json")


@click.command()
@overrides_option
@_out_option
@_json_option
def demo(overrides: tuple[str, ...], out: Path, as_json: bool) -> None:
    """Train on digits, let the largest of ten nodes leave, remove its data, compare."""
    from fedunlearn.scenario.loading import LoadedScenario, parse_scenario

    settings = parse_scenario({}, overrides, "demo")
    loaded = LoadedScenario("demo", Path.cwd(), settings)
    require_writable(out)
    from fedunlearn.cli.progress import terminal_progress
    from fedunlearn.lab.demonstration import demonstrate

    with terminal_progress() as progress:
        demonstrated = demonstrate(loaded, transport="flower", progress=progress)
    write_run(demonstrated.measured, out, demonstrated.files, as_json)
    if demonstrated.failure:
        raise VerificationError(f"not every request was removed: {demonstrated.failure}")


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
@click.option(
    "--save-models",
    "save_to",
    type=click.Path(path_type=Path),
    default=None,
    metavar="DIR",
    help="Folder for the models and the data as safetensors files, from which other code starts.",
)
@_out_option
@_json_option
def run(
    scenario: Path,
    overrides: tuple[str, ...],
    transport: Transport,
    save_to: Path | None,
    out: Path,
    as_json: bool,
) -> None:
    """Run one scenario: train, unlearn, retrain, compare."""
    from fedunlearn.scenario.loading import load_scenario

    loaded = load_scenario(scenario, overrides)
    require_writable(out)
    if save_to is not None:
        require_writable(save_to, "--save-models")
    from fedunlearn.cli.progress import terminal_progress
    from fedunlearn.lab.run import run_scenario

    with terminal_progress() as progress:
        measured = run_scenario(loaded, transport=transport, progress=progress, save_to=save_to)
    write_run(measured, out, {}, as_json)


def write_run(measured: Measured, out: Path, beside: Mapping[str, str], as_json: bool) -> None:
    """Write results, report and the files beside them, and print the table."""
    from fedunlearn.reporting.report import render_report
    from fedunlearn.reporting.seed_summary import summarise
    from fedunlearn.reporting.table import print_run

    results = measured.results
    document = results.to_json()
    report = render_report(results, measured.predictions)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "results.json", document)
    write_whole(out / "report.html", report)
    for name, text in beside.items():
        write_whole(out / name, text)
    if as_json:
        click.echo(document, nl=False)
        return
    print_run(summarise(results.name, [results]))
    _print_deletions(results)
    click.echo("\n" + "\n".join(str(out / n) for n in ("results.json", "report.html", *beside)))


def _print_deletions(results: Results) -> None:
    """Print the outcome of the requests that went through the service."""
    from fedunlearn.reporting.deletion_view import seconds_taken

    for deletion in results.deletions or ():
        took = seconds_taken(deletion)
        line = f"\nrequest of {deletion.owner}: {deletion.state} after {took:.1f} s"
        if deletion.receipt:
            line += "; the receipt verifies"
        click.echo(f"{line}: {deletion.reason}" if deletion.reason else line)
