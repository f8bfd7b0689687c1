"""The page of a comparison."""

from __future__ import annotations

import copy
import re
from itertools import pairwise

import pytest

from fedunlearn.reporting.comparison_plots import COSTS, cost_front
from fedunlearn.reporting.comparison_report import render_comparison
from fedunlearn.reporting.svg import label_ends, move_apart, new_figure
from tests.comparisons import cost, document, measures, summary_of
from tests.unit.test_report import Page

pytestmark = pytest.mark.slow


def comparison_of(seeds=3, requests=1, change=None, name="small"):
    documents = [document(seed, requests=requests) for seed in range(seeds)]
    for seed, each in enumerate(documents):
        for request in each["requests"]:
            if change:
                change(seed, request)
    return summary_of(name, documents)


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
        "cubic-newton ends nearest to the retrained model on the forget set: 2.91 ± 0.18 floors, "
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
    assert "Within the floor on the forget set: cubic-newton, instant-cubic-newton." in text


def test_says_where_numbers_are_missing():
    def hole(seed, request):
        if seed == 1:
            request["methods"]["fine-tune"]["forget_js"] = float("nan")

    page = Page(render_comparison([comparison_of(change=hole)]))
    assert "on all 3 seeds: fine-tune (2)." in page.text
    assert "(n/3) Mean over the n seeds that have the number." in page.text
    assert "(n/3)" not in Page(render_comparison([comparison_of()])).text


def test_a_method_without_any_metric_breaks_nothing():
    def empty(seed, request):
        entry = request["methods"]["fine-tune"]
        for key in measures(0.0):
            del entry[key]

    page = Page(render_comparison([comparison_of(requests=2, change=empty)]))
    assert "on all 3 seeds: fine-tune (0)." in page.text


def test_without_a_floor():
    def bare(seed, request):
        request["floor"] = {}

    page = Page(render_comparison([comparison_of(requests=2, change=bare)]))
    assert "the floor was not measured." in page.text
    assert "0.0420 ± 0.0020 nats, where" in page.text
    assert len(page.all("svg")) == len(COSTS) + 2


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


def test_lists_methods_that_end_alike_together_and_the_cost_of_recording():
    def record(seed, request):
        spent = cost(3, 170.0, 2_000_000, 5_000, seed)
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


def test_labels_are_moved_apart_and_off_the_obstacles():
    figure, axes = new_figure(600, 400, (20, 20, 20, 20))
    texts = [axes.text(0.5 + 0.01 * n, 0.5, f"method-{n}", ha="center") for n in range(5)]
    obstacles = [(0.1 * n, 0.5) for n in range(11)]
    move_apart(axes, texts, obstacles=obstacles)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in texts]
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:number])
        assert not any(box.contains(*axes.transData.transform(point)) for point in obstacles)
        assert axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)


def test_names_at_the_ends_of_lines_do_not_overlap():
    figure, axes = new_figure(560, 330, (66, 48, 120, 10))
    ends = {f"method-{n}": 0.5 + 0.001 * n for n in range(12)}
    label_ends(axes, ends, dict.fromkeys(ends, "muted"))
    figure.draw_without_rendering()
    heights = sorted(text.get_position()[1] for text in axes.texts)
    assert min(b - a for a, b in pairwise(heights)) > 0.035
    names = [text.get_text() for text in sorted(axes.texts, key=lambda t: t.get_position()[1])]
    assert names == list(ends)
