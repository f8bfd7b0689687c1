"""The table on narrow terminals."""

from __future__ import annotations

import pytest

from fedunlearn.evaluation.table import COLUMNS, fitting_columns, print_tables

MEASURED = {column.key: 0.1234 for column in COLUMNS}
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


def test_a_wide_terminal_shows_every_column() -> None:
    assert fitting_columns(REQUEST, 200) == list(COLUMNS)
