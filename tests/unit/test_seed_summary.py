"""Means and spreads over seeds, and the front."""

from __future__ import annotations

import json
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.errors import InputError
from fedunlearn.reporting.documents import read_document
from fedunlearn.reporting.pareto import pareto_front
from fedunlearn.reporting.seed_summary import Comparison, Figure, summarise
from tests.comparisons import cost, document, summary_of

COORDINATES = st.one_of(st.integers(0, 4).map(float), st.floats(0.0, 1e9))
POINTS = st.dictionaries(st.text("abcdef", min_size=1), st.tuples(COORDINATES, COORDINATES))


def dominates(left, right):
    pairs = list(zip(left, right, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


@given(POINTS)
def test_no_member_of_the_front_is_dominated_and_every_other_point_is(points):
    front = pareto_front(points)
    for name, point in points.items():
        beaten = any(dominates(other, point) for other in points.values())
        assert beaten == (name not in front)
        if beaten:
            assert any(dominates(points[member], point) for member in front)


@given(POINTS)
def test_along_the_front_distance_falls_as_cost_rises(points):
    corners = [points[name] for name in pareto_front(points)]
    assert corners == sorted(corners)
    assert [y for _, y in corners] == sorted((y for _, y in corners), reverse=True)


def test_equal_points_are_all_members():
    assert pareto_front({"a": (1.0, 2.0), "b": (1.0, 2.0), "c": (1.0, 3.0)}) == ("a", "b")
    assert pareto_front({}) == ()


def test_means_and_sample_standard_deviations():
    method = summary_of("s", [document(0), document(1), document(2)]).requests[0].methods
    figure = method["cubic-newton"].figures["forget_js"]
    assert figure.values == (0.03, 0.032, 0.034)
    assert figure.mean == pytest.approx(0.032)
    assert figure.spread == pytest.approx(0.002)  # over 2, not over 3


def test_one_seed_has_no_spread():
    comparison = summary_of("s", [document(0)])
    assert comparison.requests[0].trained["tow"] == Figure(mean=0.5, values=(0.5,))
    written = comparison.model_dump(mode="json")
    assert "spread" not in written["requests"][0]["trained"]["tow"]


def test_equal_values_have_a_spread_of_exactly_zero():
    trained = summary_of("s", [document(seed) for seed in range(3)]).requests[0].trained
    assert trained["forget_accuracy"] == Figure(mean=0.6, spread=0.0, values=(0.6, 0.6, 0.6))


@pytest.mark.parametrize("hole", [None, math.nan, math.inf])
def test_a_metric_that_a_seed_lacks_is_aggregated_over_the_others_and_says_so(hole):
    documents = [document(seed) for seed in range(3)]
    entry = documents[1]["requests"][0]["methods"]["fine-tune"]
    if hole is None:
        del entry["forget_js"]
    else:
        entry["forget_js"] = hole
    figures = summary_of("s", documents).requests[0].methods["fine-tune"].figures
    assert figures["forget_js"].values == (0.06, 0.064)
    assert figures["forget_js"].mean == pytest.approx(0.062)
    floors = (0.01 + 0.012) / 2  # of the same two seeds
    assert figures["forget_js_floors"].mean == pytest.approx(0.062 / floors)
    assert len(figures["tow"].values) == 3


def test_every_metric_and_cost_is_aggregated():
    documents = [document(seed) for seed in range(2)]
    for seed, each in enumerate(documents):
        entry = each["requests"][0]["methods"]["cubic-newton"]
        entry["klom"] = 0.1 + seed
        entry["recording"] = cost(3, 1.0, 1, 1, seed)
    figures = summary_of("s", documents).requests[0].methods["cubic-newton"].figures
    assert figures["klom"].values == (0.1, 1.1)
    assert figures["recording.rounds"].mean == 3
    assert figures["seconds"].values == (0.123, 1.123)
    assert figures["bytes"].mean == 1_090_000 + 2_840_000
    assert not {"weight", "details.weight", "status"} & figures.keys()


def test_floors_both_as_ratio_of_means_and_seed_by_seed():
    documents = [document(seed) for seed in range(3)]
    figures = summary_of("s", documents).requests[0].methods["cubic-newton"].figures
    js, floors = (0.03, 0.032, 0.034), (0.01, 0.011, 0.012)
    ratio = figures["forget_js_floors"]
    assert ratio.mean == pytest.approx(statistics.fmean(js) / statistics.fmean(floors))
    assert ratio.spread == pytest.approx(statistics.stdev(js) / statistics.fmean(floors))
    by_seed = figures["forget_js_floors_by_seed"].values
    assert by_seed == pytest.approx([a / b for a, b in zip(js, floors, strict=True)])


@pytest.mark.parametrize("floor", [{}, {"forget_js": 0.0}])
def test_without_a_floor_there_is_no_figure_in_floors(floor):
    documents = [document(seed) for seed in range(2)]
    for each in documents:
        each["requests"][0]["floor"] = floor
    request = summary_of("s", documents).requests[0]
    assert "forget_js_floors" not in request.methods["cubic-newton"].figures
    assert "forget_js_floors_by_seed" not in request.trained


def test_every_request_of_a_sequence_is_summarised():
    comparison = summary_of("s", [document(seed, requests=3) for seed in range(2)])
    assert [request.descriptions for request in comparison.requests] == [
        ("node 0", "node 1"),
        ("node 1", "node 2"),
        ("node 2", "node 3"),
    ]
    last = comparison.requests[-1].methods["cubic-newton"].figures["forget_js"]
    assert last.values == pytest.approx((0.05, 0.052))


def test_before_recovery_is_apart_and_empty_where_nothing_recovered():
    documents = [document(seed) for seed in range(2)]
    for each in documents:
        each["requests"][0]["methods"]["fine-tune"]["before_recovery"] = {"forget_js": 0.09}
    methods = summary_of("s", documents).requests[0].methods
    assert methods["fine-tune"].before_recovery["forget_js"].mean == pytest.approx(0.09)
    assert methods["fine-tune"].figures["forget_js"].mean == pytest.approx(0.061)
    assert methods["cubic-newton"].before_recovery == {}


def test_says_which_settings_were_not_the_same():
    comparison = summary_of("s", [document(seed) for seed in (4, 5)])
    assert comparison.varied == {"data.seed": (4, 5)}
    assert comparison.scenario["data"]["seed"] == 4
    assert len(comparison.environments) == 1


def test_a_method_under_a_name_of_its_own_has_its_registered_name():
    each = document(0)
    each["scenario"]["unlearning"]["mine"] = {"method": "cubic-newton"}
    comparison = summary_of("s", [each])
    assert comparison.registered_name("mine") == "cubic-newton"
    assert comparison.registered_name("fine-tune") == "fine-tune"


def test_seeds_of_other_methods_are_refused():
    other = document(1)
    del other["requests"][0]["methods"]["fine-tune"]
    with pytest.raises(InputError, match="small: results 2 are of cubic-newton, instant"):
        summary_of("small", [document(0), other])


def test_seeds_of_other_requests_are_refused():
    with pytest.raises(InputError, match="small: 2 requests in results 2, 1 in the first"):
        summary_of("small", [document(0), document(1, requests=2)])


def test_no_seed_is_refused():
    with pytest.raises(InputError, match="no results"):
        summarise("small", [])


def test_a_comparison_is_read_back_as_it_was_written(tmp_path):
    summary = summary_of("small", [document(seed, requests=2) for seed in range(2)])
    comparison = Comparison(scenarios=(summary,))
    path = tmp_path / "comparison.json"
    path.write_text(comparison.to_json())
    assert read_document(path, Comparison) == comparison
    written = json.loads(path.read_text())
    assert written["schema"] == 1
    (scenario,) = written["scenarios"]
    assert (scenario["name"], scenario["seeds"]) == ("small", 2)
    request = scenario["requests"][0]
    assert request["descriptions"] == ["node 0", "node 1"]
    assert request["sizes"]["forgotten_examples"]["values"] == [300, 301]
    newton = request["methods"]["cubic-newton"]
    assert newton["figures"]["seconds"]["values"] == [0.123, 1.123]
    assert newton["statuses"] == {"done": 2}
