"""The page of a comparison."""

from __future__ import annotations

import copy
import re

import pytest
from fedunlearn.reporting.labels import place_labels
from fedunlearn.reporting.spread import summarise
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.reporting.comparison_plots import COSTS, cost_front
from fedunlearn.reporting.comparison_report import render_comparison
from tests.comparisons import document
from tests.laws import laws
from tests.unit.test_report import Page


def comparison_of(seeds=3, requests=1, change=None, name="small"):
    documents = [document(seed, requests=requests) for seed in range(seeds)]
    for seed, each in enumerate(documents):
        for request in each["requests"]:
            if change:
                change(seed, request)
    return summarise(name, documents)


def many(seed, request):
    """Fifteen methods, crowded and far off, one of them further away than before."""
    for number in range(12):
        entry = copy.deepcopy(request["methods"]["fine-tune"])
        entry |= {"forget_js": 0.04 + 0.003 * number, "rounds": 12 + number % 3}
        request["methods"][f"another-method-{number}"] = entry
    request["methods"]["another-method-11"]["forget_js"] = 0.3


@pytest.mark.parametrize("change", [None, many])
def test_is_well_formed_with_unique_ids_and_no_dangling_references(change):
    page = Page(render_comparison([comparison_of(change=change), comparison_of(requests=3)]))
    assert len(page.ids) == len(set(page.ids))
    assert set(page.references) <= set(page.ids)
    assert len(page.all("svg")) == 2 * len(COSTS) + 2


def test_needs_nothing_from_outside():
    text = render_comparison([comparison_of(requests=2), comparison_of()])
    assert not re.search(r"https?:|@import|<script|<link|src=|url\((?!#)", text)
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]+)', text))


def test_figures_take_every_colour_and_the_font_from_the_page():
    text = render_comparison([comparison_of(requests=2, change=many)])
    defined = set(re.findall(r"(--[\w-]+):", text))
    for figure in re.findall(r"<svg.*?</svg>", text, flags=re.S):
        assert set(re.findall(r"var\((--[\w-]+)\)", figure)) <= defined
        assert not re.search(r"(?:fill|stroke): (?!none|var)", figure)
        assert "font-family" not in figure
        assert "<style" not in figure


def test_is_accessible():
    page = Page(render_comparison([comparison_of(requests=2), comparison_of()]))
    assert page.all("html")[0]["lang"] == "en"
    steps = [b - a for a, b in zip(page.headings, page.headings[1:], strict=False)]
    assert page.headings[0] == 1
    assert max(steps) == 1
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    assert all(header["scope"] in ("col", "row") for header in page.all("th"))
    assert len(page.all("figcaption")) == len(page.all("figure"))
    assert len(page.all("caption")) == len(page.all("table"))
    regions = [tag for tag in page.all("div") if tag.get("role") == "region"]
    assert all(tag["aria-label"] and tag["tabindex"] == "0" for tag in regions)


def test_shows_means_with_their_spread_and_never_time():
    text = render_comparison([comparison_of()])
    assert "cubic-newton 0.0320 ± 0.0020 2.91 ± 0.18 0.0080 60.0 95.0" in Page(text).text
    assert "3 seeds (data.seed = 0, 1, 2)." in Page(text).text
    assert "seed = 0 # then 1, 2" in Page(text).text
    assert "0.123" not in text


def test_says_what_the_numbers_say():
    text = Page(render_comparison([comparison_of()])).text
    assert (
        "cubic-newton ends nearest to the retrained model on what left: 2.91 ± 0.18 floors, "
        "where the trained model is at 11.82." in text
    )
    assert "Next is instant-cubic-newton with 4.73 ± 0.18, which is further away on 3 of 3" in text
    assert "On the front, from cheap to near: instant-cubic-newton (0), cubic-newton (14)." in text
    assert "Further from the retrained model" not in text
    assert "Within the floor" not in text


def test_says_on_how_many_seeds_the_nearest_is_nearer():
    def cross(seed, request):
        if seed == 2:
            request["methods"]["cubic-newton"]["forget_js"] = 0.06

    text = Page(render_comparison([comparison_of(change=cross)])).text
    assert "which is further away on 2 of 3 seeds." in text


def test_says_what_harmed_and_what_is_within_the_floor():
    def change(seed, request):
        request["methods"]["fine-tune"]["forget_js"] = 0.2
        request["methods"]["cubic-newton"]["forget_js"] = 0.004
        request["methods"]["instant-cubic-newton"]["forget_js"] = 0.005

    text = Page(render_comparison([comparison_of(change=change)])).text
    assert "Further from the retrained model than before any removal: fine-tune." in text
    assert "Within the floor on what left: cubic-newton, instant-cubic-newton." in text


def test_says_where_numbers_are_missing():
    def hole(seed, request):
        if seed == 1:
            request["methods"]["fine-tune"]["forget_js"] = float("nan")

    page = Page(render_comparison([comparison_of(change=hole)]))
    assert "on all 3 seeds: fine-tune (2)." in page.text
    assert "(n/3) Over the n seeds that have it." in page.text
    assert "(n/3)" not in Page(render_comparison([comparison_of()])).text


def test_a_method_without_any_number_breaks_nothing():
    def empty(seed, request):
        entry = request["methods"]["fine-tune"]
        request["methods"]["fine-tune"] = {key: entry[key] for key in ("status", "claim")}

    page = Page(render_comparison([comparison_of(requests=2, change=empty)]))
    assert "on all 3 seeds: fine-tune (0)." in page.text


def test_without_a_floor_and_without_costs():
    def bare(seed, request):
        request["floor"] = {}
        for entry in (*request["methods"].values(), request["retrained"]):
            for key in ("rounds", "bytes_up", "bytes_down", "gradient_equivalents"):
                del entry[key]

    page = Page(render_comparison([comparison_of(requests=2, change=bare)]))
    assert "the floor was not measured." in page.text
    assert "0.0420 ± 0.0020 nats, where" in page.text
    assert "Quality against cost" not in page.text
    assert len(page.all("svg")) == 2


def test_one_seed_has_no_spread():
    page = Page(render_comparison([comparison_of(seeds=1)]))
    assert "One seed." in page.text
    assert "±" not in page.text


def test_divergences_of_zero_can_be_drawn():
    def exact(seed, request):
        request["methods"]["cubic-newton"]["forget_js"] = 0.0

    front = comparison_of(change=exact).requests[0]
    assert cost_front(front, COSTS[0]) == ("instant-cubic-newton", "cubic-newton")
    Page(render_comparison([comparison_of(requests=2, change=exact)]))


def test_every_method_is_named_once_in_every_plot():
    text = render_comparison([comparison_of(change=many)])
    figures = re.findall(r"<svg.*?</svg>", text, flags=re.S)
    assert len(figures) == len(COSTS)
    for figure in figures:
        for name in ("cubic-newton", "instant-cubic-newton", "fine-tune", "another-method-7"):
            assert len(re.findall(rf">{name}</text>", figure)) == 1


def test_tells_methods_that_end_alike_together_and_what_recording_took():
    def record(seed, request):
        spent = {"rounds": 3, "gradient_equivalents": 170.0, "bytes_up": 2e6, "bytes_down": 5e3}
        request["methods"]["instant-cubic-newton"]["recording"] = spent
        if seed == 0:
            request["methods"]["instant-cubic-newton"]["status"] = "not trusted"

    text = Page(render_comparison([comparison_of(change=record)])).text
    assert "cubic-newton fine-tune EMPIRICAL : done, on every seed." in text
    assert "EMPIRICAL : not trusted (1 of 3); done (2 of 3). Recording when training" in text
    assert "took 3 rounds, 170.0 gradients, 2 MB up, 5 kB down more." in text


def test_shows_every_request_and_several_scenarios_side_by_side():
    page = Page(
        render_comparison([comparison_of(name="first"), comparison_of(requests=3, name="second")])
    )
    assert "Overview" in page.text
    assert "cubic-newton 2.91 ± 0.18 4.73 ± 0.18" in page.text
    assert len(page.all("details")) == 2
    assert "Request 3 of 3: node 2 / node 3 / node 4" in page.text
    assert "Overview" not in Page(render_comparison([comparison_of()])).text


def test_escapes_what_others_wrote():
    hostile = '<script>alert("x")</script>'

    def change(seed, request):
        request["forget"]["description"] = hostile
        request["methods"]["fine-tune"]["status"] = hostile
        request["methods"][hostile] = request["methods"].pop("fine-tune")

    text = render_comparison([comparison_of(change=change, name=hostile, requests=2)])
    assert "<script" not in text
    assert Page(text).text.count("<script>") >= 5


def test_same_input_gives_the_same_bytes():
    one = [comparison_of(requests=2, change=many)]
    assert render_comparison(one) == render_comparison(copy.deepcopy(one))


@laws(30)
@given(
    st.lists(st.tuples(st.floats(60, 540), st.floats(40, 360)), min_size=1, max_size=6),
    st.integers(20, 120),
)
def test_a_few_labels_cover_neither_each_other_nor_the_edge(anchors, width):
    boxes = place_labels(anchors, [(float(width), 14.0)] * len(anchors), [], (0, 0, 600, 400))
    for number, (left, bottom, right, top) in enumerate(boxes):
        assert left >= -1e-6 and bottom >= -1e-6 and right <= 600 + 1e-6 and top <= 400 + 1e-6
        for other in boxes[:number]:
            across = min(right, other[2]) - max(left, other[0])
            up = min(top, other[3]) - max(bottom, other[1])
            assert across <= 1e-6 or up <= 1e-6
