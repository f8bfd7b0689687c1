"""``fedunlearn compare``: scenarios over several seeds."""

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
    help="Number of runs of each scenario, each with its own data, forget set and models.",
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
    help="Number of processes, one thread each.  [default: number of cores]",
)
cache_option = click.option(
    "--cache",
    type=click.Path(path_type=Path),
    default=None,
    metavar="DIR",
    help="Folder of stored models, so that no job is done twice.  [default: OUT/cache]",
)


def processes(jobs: int | None) -> int:
    """Return the number of processes to use."""
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
    help="Folder for comparison.html, .json, .csv and every run's results.json.",
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

    The same command resumes an interrupted comparison.
    """
    require_writable(out)
    from fedunlearn.cli.comparison_files import write_comparison
    from fedunlearn.cli.progress import terminal_progress
    from fedunlearn.lab.comparison import compare_scenarios
    from fedunlearn.lab.result_store import FolderStore
    from fedunlearn.reporting.seed_summary import summarise
    from fedunlearn.scenario.loading import load_scenarios

    loaded = load_scenarios(scenarios, overrides)
    numbers = range(first, first + seeds)
    with terminal_progress() as progress:
        runs = compare_scenarios(
            loaded,
            numbers,
            store=FolderStore(cache or out / "cache"),
            processes=processes(jobs),
            progress=progress,
        )
    for one, of_seeds in zip(loaded, runs, strict=True):
        for number, results in zip(numbers, of_seeds, strict=True):
            folder = out / one.name / f"{number}"
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / "results.json", results.to_json())
    summaries = [summarise(one.name, each) for one, each in zip(loaded, runs, strict=True)]
    write_comparison(summaries, out, as_json)
