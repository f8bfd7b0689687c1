"""The table on narrow terminals."""

from __future__ import annotations

from typing import Any

import pytest

from fedunlearn.reporting.seed_summary import ScenarioSummary, summarise
from fedunlearn.reporting.table import OF_RUN, print_run, request_grid
from fedunlearn.reporting.table_columns import (
    COLUMNS,
    COSTS,
    EXPENDABLE,
    OPTIONAL_METRICS,
    SECONDARY_METRICS,
    SECONDS,
)
from tests.comparisons import document, results_of

SPENT = {column.key: 123 for column in (*COSTS, SECONDS)}
MEASURED = {
    column.key: 0.1234
    for column in COLUMNS
    if column.key not in (*OPTIONAL_METRICS, *SECONDARY_METRICS, *SPENT)
} | SPENT
ENDED = {"status": "converged", "claim": "EMPIRICAL"}
REQUEST = {
    "forget": {
        "kind": "node",
        "description": "node 6",
        "forgotten_examples": 306,
        "retained_examples": 1042,
    },
    "floor": {"forget_js": 0.01, "retain_js": 0.002, "test_js": 0.003},
    "trained": {"forget_js": 0.1353, "retain_accuracy": 0.9},
    "retrained": MEASURED,
    "methods": {"cubic-newton": {**MEASURED, **ENDED, "before_recovery": {"forget_js": 0.05}}},
}


def run_of(request: dict[str, Any]) -> ScenarioSummary:
    return summarise("demo", [results_of(document(0) | {"requests": [request]})])


def test_nothing_is_cut_short_at_any_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for width in (80, 100, 120, 200):
        monkeypatch.setattr("rich.console.Console.is_terminal", True)
        monkeypatch.setenv("COLUMNS", str(width))
        print_run(run_of(REQUEST))
        printed = capsys.readouterr().out
        assert "…" not in printed
        assert "cubic-newton," in printed and "recovery" in printed
        assert "0.1353" in printed and "forget JS" in printed
        assert ("More columns are in" in printed) == (width < 140)


def with_all_measured() -> dict[str, Any]:
    return REQUEST | {"retrained": {column.key: 0.1234 for column in COLUMNS} | SPENT}


def shown(request: dict[str, Any], width: int) -> list[str]:
    grid = request_grid(run_of(request), 0, OF_RUN).fitted(width, EXPENDABLE)
    return [column.key for column in grid.columns]


def test_a_wide_terminal_shows_every_column_that_has_a_value() -> None:
    assert set(shown(REQUEST, 400)) == set(MEASURED)
    assert shown(with_all_measured(), 400) == [column.key for column in COLUMNS]


@pytest.mark.parametrize("width", [80, 100, 120, 140])
def test_what_every_run_measures_beside_takes_no_others_place(width: int) -> None:
    beside = {key: 0.1234 for key in SECONDARY_METRICS}
    request = REQUEST | {"retrained": MEASURED | beside}
    assert shown(request, width) == shown(REQUEST, width)


def test_what_a_scenario_switches_on_stays_longer_than_bytes_and_seconds() -> None:
    first_to_go = {"seconds", "bytes_up", "bytes_down", *SECONDARY_METRICS}
    stays = [set(shown(with_all_measured(), width)) for width in range(60, 300, 2)]
    assert any(set(OPTIONAL_METRICS) <= keys and not first_to_go & keys for keys in stays)
    assert all(set(OPTIONAL_METRICS) <= keys for keys in stays if first_to_go & keys)
