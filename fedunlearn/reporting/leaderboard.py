"""The leaderboard as a document and as a page: methods over scenarios, with their spread."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from fedunlearn.reporting.documents import Document, Sparse, Versioned
from fedunlearn.reporting.pages import toml
from fedunlearn.reporting.seed_summary import (
    IN_FLOORS,
    Figure,
    MethodSummary,
    RequestSummary,
    ScenarioSummary,
)
from fedunlearn.reporting.tuning_results import Trial

COLUMNS = {
    IN_FLOORS: ("floors", 2),
    "tow": ("ToW", 3),
    "forget_accuracy": ("forget", 3),
    "retain_accuracy": ("retain", 3),
    "test_accuracy": ("test", 3),
    "ulira_auc": ("U-LiRA", 3),
    "mia_auc": ("MIA", 3),
    "rounds": ("rounds", 0),
    "gradient_equivalents": ("gradients", 1),
    "seconds": ("s", 1),
}


class TunedGroup(Document):
    """The search of one group.

    Attributes:
        group: Name of the group.
        scenario: The scenario on which the methods were tuned.
        trials: All trials, best first within each method.
    """

    group: str
    scenario: str
    trials: tuple[Trial, ...]


class BoardScenario(Document):
    """The results of one scenario.

    Attributes:
        group: Name of its group.
        summary: The results over seeds.
    """

    group: str
    summary: ScenarioSummary


class Hardware(Sparse):
    """The machine of a board.

    Attributes:
        processor: Name of the processor, if known.
        cores: Number of cores that the process may use.
        processes: Number of jobs at once, one thread each.
    """

    processor: str | None = None
    cores: int
    processes: int


class Leaderboard(Versioned):
    """leaderboard.json: the whole board.

    Attributes:
        schema_version: Version of this schema.
        fedunlearn: Version of the package.
        command: The command that made the board.
        seeds: Number of reported runs of each scenario.
        tuning_seeds: Number of runs of each trial; none of them is reported.
        trials: Number of trials of each method in each group.
        hardware: The machine.
        seconds: Wall time, that of interrupted runs included.
        groups: The searches.
        scenarios: The results, in the order of the board.
    """

    version: ClassVar[int] = 1
    what: ClassVar[str] = "leaderboard"

    schema_version: Literal[1] = Field(1, alias="schema")
    fedunlearn: str
    command: str
    seeds: int
    tuning_seeds: int
    trials: int
    hardware: Hardware
    seconds: float
    groups: tuple[TunedGroup, ...]
    scenarios: tuple[BoardScenario, ...]


def ranked(scenarios: Sequence[BoardScenario]) -> list[tuple[str, float]]:
    """Return methods with their mean rank over scenarios, best first.

    In a scenario methods are ranked by forget JS plus retain JS, mean over seeds and requests, as
    the search scores them; methods that gave no number share the last place.
    """
    places: dict[str, list[float]] = {}
    for scenario in scenarios:
        scores = _scores(scenario.summary.requests)
        for name, score in scores.items():
            better = sum(other < score for other in scores.values())
            same = sum(other == score for other in scores.values())
            places.setdefault(name, []).append(better + (same + 1) / 2)
    means = [(name, statistics.fmean(ranks)) for name, ranks in places.items()]
    return sorted(means, key=lambda pair: pair[1])


def _scores(requests: Sequence[RequestSummary]) -> dict[str, float]:
    return {
        name: statistics.fmean(_distance(request.methods[name]) for request in requests)
        for name in requests[0].methods
    }


def _distance(method: MethodSummary) -> float:
    keys = ("forget_js", "retain_js")
    if any(key not in method.figures for key in keys):
        return float("inf")
    return sum(method.figures[key].mean for key in keys)


def board_page(board: Leaderboard) -> str:
    """Return the page of a board, in Markdown."""
    machine = board.hardware
    lines = [
        "# Leaderboard",
        "",
        f"Made by `{board.command}` with fedunlearn {board.fedunlearn} in "
        f"{_duration(board.seconds)} on "
        f"{machine.processor or 'an unknown processor'}, {machine.cores} cores, "
        f"{machine.processes} {'job' if machine.processes == 1 else 'jobs'} at once. Each scenario "
        f"has {board.seeds} {'run' if board.seeds == 1 else 'runs'}, with data, forget set and "
        "models of their own; "
        "figures are means ± standard deviations. In each group every method had at most "
        f"{board.trials} trials of its grid, its defaults among them, each on "
        f"{board.tuning_seeds} further {'run' if board.tuning_seeds == 1 else 'runs'}; methods "
        "that adapt have the client compute of the first. Floors are forget JS over the distance "
        "of retrained models from each other, so that 1 means as good as retrained. A sequence is "
        "shown after its last request. All figures are in `leaderboard.json`.",
        "",
        "## All scenarios",
        "",
        "Floors, then ToW. Methods are in the order of their mean rank by forget JS plus retain "
        "JS.",
        "",
    ]
    order = ranked(board.scenarios)
    heads = ["method", "mean rank", *(one.summary.name for one in board.scenarios)]
    rows = []
    for name, rank in order:
        cells = [_short(one.summary.requests[-1].methods.get(name)) for one in board.scenarios]
        rows.append([name, f"{rank:.1f}", *cells])
    lines += _table(heads, rows)
    for group in board.groups:
        lines += ["", f"## {group.group}", ""]
        for one in board.scenarios:
            if one.group == group.group:
                lines += _scenario(one.summary, [name for name, _ in order])
        lines += ["", f"Settings, tuned on {group.scenario}:", ""]
        lines += _table(["method", "settings", "score", "trials"], _settings(group))
    return "\n".join(lines) + "\n"


def _scenario(summary: ScenarioSummary, order: Sequence[str]) -> list[str]:
    request = summary.requests[-1]
    forgotten, retained = (
        request.sizes[key].mean for key in ("forgotten_examples", "retained_examples")
    )
    count = len(summary.requests)
    after = f"after {count} requests " if count > 1 else ""
    share = 100 * forgotten / (forgotten + retained)
    lines = [
        f"### {summary.name}",
        "",
        f"In the first run leave: {request.descriptions[0]}. In the mean over runs {after}"
        f"{forgotten:.0f} of {forgotten + retained:.0f} examples ({share:.2g} %) have left.",
        "",
    ]
    named: list[tuple[str, Mapping[str, Figure]]] = [("trained", request.trained)]
    named += [(name, request.methods[name].figures) for name in order if name in request.methods]
    named.append(("retrained", request.retrained))
    keys = [key for key in COLUMNS if any(key in figures for _, figures in named)]
    rows = [
        [name, *(_figure(figures.get(key), COLUMNS[key][1]) for key in keys)]
        for name, figures in named
    ]
    return [*lines, *_table(["model", *(COLUMNS[key][0] for key in keys)], rows), ""]


def _settings(group: TunedGroup) -> list[list[str]]:
    rows = []
    for name in dict.fromkeys(trial.method for trial in group.trials):
        best, *others = [trial for trial in group.trials if trial.method == name]
        settings = ", ".join(
            f"`{key} = {toml(value)}`" for key, value in best.settings.items() if value is not None
        )
        score = "\N{EN DASH}" if best.score is None else f"{best.score:.4f}"
        rows.append([name, settings or "defaults", score, str(1 + len(others))])
    return rows


def _short(method: MethodSummary | None) -> str:
    if method is None:
        return "\N{EN DASH}"
    floors, tow = (_figure(method.figures.get(key), COLUMNS[key][1]) for key in (IN_FLOORS, "tow"))
    return f"{floors}; {tow}"


def _figure(figure: Figure | None, digits: int) -> str:
    if figure is None:
        return "\N{EN DASH}"
    text = f"{figure.mean:.{digits}f}"
    return text if figure.spread is None else f"{text} ± {figure.spread:.{digits}f}"


def _duration(seconds: float) -> str:
    if seconds < 120.0:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200.0 else f"{seconds / 3600:.1f} h"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
