"""The table on narrow terminals."""

from __future__ import annotations

import pytest
from fedunlearn.reporting.columns import ASKED_FOR, COLUMNS, LEAST_TELLING

from fedunlearn.reporting.table import fitting_columns, print_tables

MEASURED = {
    column.key: 0.1234 for column in COLUMNS if column.key not in (*ASKED_FOR, *LEAST_TELLING)
}
REQUEST = {
    "forget": {"description": "node 6", "forgotten_examples": 306, "retained_examples": 1042},
    "floor": {"forget_js": 0.01, "retain_js": 0.002, "test_js": 0.003},
    "trained": {"forget_js": 0.1353, "retain_accuracy": 0.9},
    "retrained": MEASURED,
    "methods": {
        "cubic-newton": {**MEASURED, "status": "converged", "before_recovery": {"forget_js": 0.05}}
    },
}


def test_nothing_is_cut_short_at_any_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for width in (80, 100, 120, 200):
        monkeypatch.setattr("rich.console.Console.is_terminal", True)
        monkeypatch.setenv("COLUMNS", str(width))
        print_tables({"name": "demo", "requests": [REQUEST]})
        printed = capsys.readouterr().out
        assert "…" not in printed
        assert "cubic-newton," in printed and "recovery" in printed
        assert "0.1353" in printed and "forget JS" in printed
        assert ("More columns are in" in printed) == (width < 140)


def with_all_measured() -> dict[str, object]:
    return REQUEST | {"retrained": {column.key: 0.1234 for column in COLUMNS}}


def shown(request: dict[str, object], width: int) -> list[str]:
    return [column.key for column in fitting_columns(request, width)]


def test_a_wide_terminal_shows_every_column_that_has_a_value() -> None:
    assert shown(REQUEST, 400) == list(MEASURED)
    assert shown(with_all_measured(), 400) == [column.key for column in COLUMNS]


@pytest.mark.parametrize("width", [80, 100, 120, 140])
def test_what_every_run_measures_beside_takes_no_others_place(width: int) -> None:
    beside = {key: 0.1234 for key in LEAST_TELLING}
    request = REQUEST | {"retrained": MEASURED | beside}
    assert shown(request, width) == shown(REQUEST, width)


def test_what_a_scenario_asks_for_stays_longer_than_bytes_and_seconds() -> None:
    first_to_go = {"seconds", "bytes_up", "bytes_down", *LEAST_TELLING}
    kept = [set(shown(with_all_measured(), width)) for width in range(60, 300)]
    assert any(set(ASKED_FOR) <= keys and not first_to_go & keys for keys in kept)
    assert all(set(ASKED_FOR) <= keys for keys in kept if first_to_go & keys)
