"""``fedunlearn compare``: scenarios over several seeds."""

from __future__ import annotations

from pathlib import Path

import click

from fedunlearn.cli.files import require_writable
from fedunlearn.cli.lab_options import (
    cache_option,
    first_option,
    jobs_option,
    json_option,
    out_option,
    overrides_option,
    processes,
    seeds_option,
)
from fedunlearn.files import write_whole


@click.command()
@click.argument(
    "scenarios",
    type=click.Path(path_type=Path),
    metavar="SCENARIO.toml...",
    nargs=-1,
    required=True,
)
@seeds_option
@first_option(0, "Number of the first run; it is added to the scenario's seeds.")
@overrides_option
@jobs_option
@cache_option
@out_option("comparison", "comparison.html, .json, .csv and every run's results.json")
@json_option("comparison.json")
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
