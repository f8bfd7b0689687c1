"""Comparisons as CSV.

Wall time is left out: two comparisons of the same seeds give the same text.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedunlearn.reporting.seed_summary import ScenarioSummary
from fedunlearn.reporting.table_columns import SECONDS

HEADER = ("scenario", "request", "model", "metric", "mean", "spread", "seeds")


def to_csv(summaries: Sequence[ScenarioSummary]) -> str:
    """Return every figure on a line of its own.

    Args:
        summaries: The scenarios in the order in which they are written.

    Returns:
        Columns scenario, request (from 1), model, metric, mean, spread (empty for one seed), seeds
        (number of seeds that have the metric).
    """
    import pandas as pd  # takes a second to load: only where CSV is written

    lines = [
        (summary.name, number, model, metric, figure.mean, figure.spread, len(figure.values))
        for summary in summaries
        for number, request in enumerate(summary.requests, start=1)
        for model, figures in request.rows()
        for metric, figure in figures.items()
        if metric.rpartition(".")[2] != SECONDS.key
    ]
    return pd.DataFrame(lines, columns=HEADER).to_csv(index=False, lineterminator="\n")
