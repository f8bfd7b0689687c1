"""Comparisons on the terminal and as CSV."""

from __future__ import annotations

import csv
import io
import re

import pytest

from fedunlearn.reporting.comparison_csv import to_csv
from fedunlearn.reporting.table import (
    OF_SEEDS,
    columns_with_values,
    course_grid,
    expendable_of_course,
    print_seeds,
)
from tests.comparisons import cost, document, summary_of


def comparison_of(seeds=3, requests=1, change=None, drift=0.002):
    documents = [document(seed, requests=requests, drift=drift) for seed in range(seeds)]
    for seed, each in enumerate(documents):
        for request in each["requests"]:
            if change:
                change(seed, request)
    return summary_of("small", documents)


def printed(comparison, capsys):
    print_seeds(comparison)
    return capsys.readouterr().out


def line_of(text, name):
    return next(line.split() for line in text.splitlines() if line.split()[:1] == [name])


@pytest.mark.parametrize("requests", [1, 5])
@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_nothing_is_cut_short_at_any_width(monkeypatch, capsys, width, requests):
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setenv("COLUMNS", str(width))

    def recover(seed, request):
        request["methods"]["instant-cubic-newton"]["before_recovery"] = {"forget_js": 0.05}

    text = printed(comparison_of(requests=requests, change=recover), capsys)
    text = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert ("More columns are in" in text) == (width < 180)


def test_a_pipe_gets_every_column(capsys):
    text = printed(comparison_of(), capsys)
    heads = (
        "forget JS floors retain JS forget % retain % test % ToW MIA AUC rounds up down gradients"
    )
    assert heads in " ".join(text.split())
    assert "\x1b" not in text


def test_rows_are_in_reading_order(capsys):
    def recover(seed, request):
        request["methods"]["cubic-newton"]["before_recovery"] = {"forget_js": 0.09}

    text = printed(comparison_of(change=recover), capsys)
    order = [
        "trained",
        "cubic-newton, before recovery",
        "cubic-newton  ",
        "instant-cubic-newton",
        "fine-tune",
        "retrained",
        "floor  ",
    ]
    places = [text.index(f"\n {name}") for name in order]
    assert places == sorted(places)


def test_writes_means_with_their_spread_and_equal_values_alone(capsys):
    text = printed(comparison_of(), capsys)
    assert "Mean ± standard deviation over 3 seeds" in text
    newton = " ".join(line_of(text, "cubic-newton"))
    assert newton.startswith("cubic-newton 0.0320 ± 0.0020 2.91 ± 0.18 0.0080 60.0 95.0")
    assert newton.endswith("14 1.09 MB 2.84 MB 22.6")


def test_spread_of_costs_is_in_the_unit_of_their_mean(capsys):
    def spend(seed, request):
        request["methods"]["fine-tune"] |= {
            "rounds": 12 + seed,
            "bytes_up": 1_000_000 + 9000 * seed,
        }

    tuned = " ".join(line_of(printed(comparison_of(change=spend), capsys), "fine-tune"))
    assert "13.0 ± 1.0 1.01 MB ± 0.01 1.06 MB" in tuned


def test_one_seed_is_written_without_spread(capsys):
    text = printed(comparison_of(seeds=1), capsys)
    assert "One seed" in text
    assert "±" not in text


def test_says_how_many_seeds_have_a_number(capsys):
    def hole(seed, request):
        if seed == 1:
            del request["methods"]["fine-tune"]["forget_js"]

    text = printed(comparison_of(change=hole), capsys)
    assert "0.0620 ± 0.0028 (2/3)" in " ".join(line_of(text, "fine-tune"))
    assert "(2/3)" not in " ".join(line_of(text, "cubic-newton"))


@pytest.mark.parametrize(
    ("key", "heading", "shown"),
    [
        ("ulira_auc", "U-LiRA AUC", "0.250"),
        ("backdoor_success", "backdoor %", "25.0"),
        ("klom", "KLoM", "0.25"),
        ("klom_test", "test KLoM", "0.25"),
        ("ulira_pair_auc", "pair AUC", "0.250"),
        ("relearn_epochs", "relearn", "0.25"),
        ("worst_node_accuracy", "worst node %", "25.0"),
        ("node_accuracy_spread", "± nodes", "25.0"),
    ],
)
def test_metrics_that_some_scenarios_measure_have_columns_only_there(capsys, key, heading, shown):
    def measure(seed, request):
        request["methods"]["fine-tune"][key] = 0.25

    assert heading not in printed(comparison_of(), capsys)
    text = printed(comparison_of(change=measure), capsys)
    assert heading in text
    assert shown in line_of(text, "fine-tune")


def test_without_a_floor_there_is_no_column_in_floors():
    def without(seed, request):
        request["floor"] = {}

    keys = [
        column.key
        for column in columns_with_values(OF_SEEDS, comparison_of(change=without).requests)
    ]
    assert "forget_js" in keys
    assert "forget_js_floors" not in keys


def test_a_sequence_shows_its_course_and_the_last_request(capsys):
    text = printed(comparison_of(requests=3), capsys)
    assert "small: after each of 3 requests" in text
    assert "floors 1" in text and "floors 3" in text and "ToW 2" in text
    assert "small, request 3 of 3: node 2 / node 3 / node 4 leaves, 301 ± 1 examples" in text
    assert "2.91 ± 0.18 3.82 ± 0.18 4.73 ± 0.18" in " ".join(line_of(text, "cubic-newton"))


def test_a_narrow_course_keeps_first_and_last(monkeypatch, capsys):
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setenv("COLUMNS", "80")
    head = next(
        line for line in printed(comparison_of(requests=5), capsys).splitlines() if "model" in line
    )
    assert "floors 1" in head and "floors 5" in head and "ToW 5" in head
    assert "floors 2" not in head


def test_a_narrow_course_gives_up_tow_before_floors():
    comparison = comparison_of(requests=5)
    expendable = expendable_of_course(5)
    shown = [
        {column.heading for column in course_grid(comparison).fitted(width, expendable).columns}
        for width in range(60, 100)
    ]
    for place in range(1, 6):
        assert all(f"floors {place}" in heads for heads in shown if f"ToW {place}" in heads)
    assert any("floors 1" in heads and "ToW 1" not in heads for heads in shown)


def slower(seed, request):
    for entry in (*request["methods"].values(), request["retrained"]):
        entry["seconds"] *= 7
    for entry in request["methods"].values():
        entry["recording"] = cost(3, 1.0, 1, 1, seed)


def faster(seed, request):
    slower(seed, request)
    request["retrained"]["seconds"] = 1e-3
    for entry in request["methods"].values():
        entry["recording"]["seconds"] = entry["seconds"] = 1e-3


def test_time_changes_neither_table_nor_csv(capsys):
    one, other = comparison_of(change=slower), comparison_of(change=faster)
    assert one != other
    assert printed(one, capsys) == printed(other, capsys)
    assert to_csv([one]) == to_csv([other])


def test_csv_has_a_line_for_every_figure():
    one, several = comparison_of(seeds=1), comparison_of(requests=2)
    lines = list(csv.DictReader(io.StringIO(to_csv([one, several]))))
    assert list(lines[0]) == ["scenario", "request", "model", "metric", "mean", "spread", "seeds"]
    assert len({(*tuple(line.values())[:4], line["seeds"]) for line in lines}) == len(lines)
    newton = [
        line
        for line in lines
        if (line["model"], line["metric"], line["seeds"]) == ("cubic-newton", "forget_js", "3")
    ]
    assert [line["request"] for line in newton] == ["1", "2"]
    assert float(newton[0]["mean"]) == pytest.approx(0.032)
    assert float(newton[0]["spread"]) == pytest.approx(0.002)
    assert {line["spread"] for line in lines if line["seeds"] == "1"} == {""}
    assert {"trained", "retrained", "floor"} <= {line["model"] for line in lines}
    assert {"rounds", "bytes", "forget_js_floors"} <= {line["metric"] for line in lines}
    assert not any("seconds" in line["metric"] for line in lines)


def test_csv_quotes_what_others_wrote():
    comparison = summary_of('a,"b"\n', [document(0)])
    assert next(csv.DictReader(io.StringIO(to_csv([comparison]))))["scenario"] == 'a,"b"\n'
