"""``fedunlearn compare``: scenarios over seeds, as tables, plots, CSV, JSON and a report."""

from __future__ import annotations

import os
from pathlib import Path

import click

from fedunlearn.cli.files import require_writable
from fedunlearn.cli.scenarios import overrides_option
from fedunlearn.files import write_whole

seeds_option = click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    metavar="N",
    help="How many runs of each scenario, with data, forget set and models of their own.",
)
first_option = click.option(
    "--first",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="S",
    help="Number of the first run; it is added to the scenario's seeds.",
)
jobs_option = click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=None,
    metavar="J",
    help="How many processes, one thread each.  [default: the cores there are]",
)
cache_option = click.option(
    "--cache",
    type=click.Path(path_type=Path),
    default=None,
    metavar="DIR",
    help="Where models are kept, so that nothing is done twice.  [default: OUT/cache]",
)


def processes(jobs: int | None) -> int:
    """Return how many processes to use."""
    return jobs or len(os.sched_getaffinity(0))


@click.command()
@click.argument(
    "scenarios",
    type=click.Path(path_type=Path),
    metavar="SCENARIO.toml...",
    nargs=-1,
    required=True,
)
@seeds_option
@first_option
@overrides_option
@jobs_option
@cache_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("comparison"),
    show_default=True,
    metavar="DIR",
    help="Where comparison.html, .json and .csv go, and every run's results.json.",
)
@click.option("--json", "as_json", is_flag=True, help="Print comparison.json instead of tables.")
def compare(
    scenarios: tuple[Path, ...],
    seeds: int,
    first: int,
    overrides: tuple[str, ...],
    jobs: int | None,
    cache: Path | None,
    out: Path,
    as_json: bool,
) -> None:
    """Run scenarios over several seeds and compare their methods.

    Interrupted, it goes on where it was when the same command is given again.
    """
    require_writable(out)
    from fedunlearn.cli.progress import terminal_progress
    from fedunlearn.lab.comparison import compare_scenarios
    from fedunlearn.lab.store import Store
    from fedunlearn.reporting.comparison_report import render_comparison
    from fedunlearn.reporting.comparison_table import print_comparison, to_csv
    from fedunlearn.reporting.results import to_json
    from fedunlearn.reporting.spread import as_json as comparison_as_json
    from fedunlearn.reporting.spread import summarise
    from fedunlearn.scenario.loading import load_scenarios

    loaded = load_scenarios(scenarios, overrides)
    numbers = range(first, first + seeds)
    with terminal_progress() as progress:
        runs = compare_scenarios(
            loaded,
            numbers,
            store=Store(cache or out / "cache"),
            processes=processes(jobs),
            progress=progress,
        )
    comparisons = [summarise(one.name, results) for one, results in zip(loaded, runs, strict=True)]
    document = to_json({"scenarios": [comparison_as_json(one) for one in comparisons]})
    for one, results in zip(loaded, runs, strict=True):
        for number, result in zip(numbers, results, strict=True):
            folder = out / one.name / f"{number}"
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / "results.json", to_json(result))
    write_whole(out / "comparison.json", document)
    write_whole(out / "comparison.csv", to_csv(comparisons))
    write_whole(out / "comparison.html", render_comparison(comparisons))
    if as_json:
        click.echo(document, nl=False)
        return
    for comparison in comparisons:
        print_comparison(comparison)
    for name in ("comparison.html", "comparison.csv", "comparison.json"):
        click.echo(out / name)
