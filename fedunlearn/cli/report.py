"""``fedunlearn report`` and ``fedunlearn schema``: stored results read again, and their schemas."""

from __future__ import annotations

import json
from pathlib import Path

import click

from fedunlearn.cli.files import require_writable
from fedunlearn.cli.lab_options import json_option, out_option


@click.command()
@click.argument(
    "results",
    type=click.Path(path_type=Path),
    metavar="RESULTS.json...",
    nargs=-1,
    required=True,
)
@out_option("comparison", "comparison.html, .json and .csv")
@json_option("comparison.json")
def report(results: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Compare results.json files that earlier runs wrote.

    Files of the same scenario name count as its seeds.
    """
    require_writable(out)
    from fedunlearn.cli.comparison_files import write_comparison
    from fedunlearn.reporting.documents import read_document
    from fedunlearn.reporting.results import Results
    from fedunlearn.reporting.seed_summary import summarise

    runs: dict[str, list[Results]] = {}
    for path in results:
        run = read_document(path, Results)
        runs.setdefault(run.name, []).append(run)
    write_comparison([summarise(name, each) for name, each in runs.items()], out, as_json)


@click.command()
@click.argument("document", type=click.Choice(["results", "comparison", "tuning", "leaderboard"]))
def schema(document: str) -> None:
    """Print the JSON schema of results, comparison, tuning or leaderboard.json."""
    from fedunlearn.reporting.documents import Versioned
    from fedunlearn.reporting.leaderboard import Leaderboard
    from fedunlearn.reporting.results import Results
    from fedunlearn.reporting.seed_summary import Comparison
    from fedunlearn.reporting.tuning_results import Tuning

    models: dict[str, type[Versioned]] = {
        "results": Results,
        "comparison": Comparison,
        "tuning": Tuning,
        "leaderboard": Leaderboard,
    }
    click.echo(json.dumps(models[document].model_json_schema(), indent=2))
