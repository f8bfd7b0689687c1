"""The files of a comparison: comparison.html, comparison.json and comparison.csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from fedunlearn.files import write_whole
from fedunlearn.reporting.comparison_csv import to_csv
from fedunlearn.reporting.comparison_report import render_comparison
from fedunlearn.reporting.seed_summary import Comparison, ScenarioSummary
from fedunlearn.reporting.table import print_seeds


def write_comparison(summaries: Sequence[ScenarioSummary], out: Path, as_json: bool) -> None:
    """Write a comparison and print it.

    Args:
        summaries: The scenarios in the order in which they are shown.
        out: The folder of the files.
        as_json: Whether comparison.json is printed instead of tables.
    """
    document = Comparison(scenarios=tuple(summaries)).to_json()
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "comparison.json", document)
    write_whole(out / "comparison.csv", to_csv(summaries))
    write_whole(out / "comparison.html", render_comparison(summaries))
    if as_json:
        click.echo(document, nl=False)
        return
    for summary in summaries:
        print_seeds(summary)
    for name in ("comparison.html", "comparison.csv", "comparison.json"):
        click.echo(out / name)
