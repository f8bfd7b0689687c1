import copy
import re
from html.parser import HTMLParser

import pytest
import torch

from fedunlearn.reporting.forget_set_predictions import ExamplePredictions, ForgetSetPredictions
from fedunlearn.reporting.report import render_report
from fedunlearn.reporting.seed_summary import summarise
from fedunlearn.reporting.table import OF_RUN, request_grid
from tests.comparisons import ENVIRONMENT, NAMES, results_of

pytestmark = pytest.mark.slow

VOID = {"meta", "link", "br", "hr", "img", "input"}
MODELS = ("trained", "cubic-newton", "fine-tune", "retrained")


def measures(forget_js, forget_accuracy=0.61):
    return {
        "forget_accuracy": forget_accuracy,
        "retain_accuracy": 0.952,
        "test_accuracy": 0.873,
        "forget_loss": 0.7,
        "forget_js": forget_js,
        "retain_js": 0.0082,
        "test_js": 0.0147,
        "tow": 0.888,
        "mia_auc": 0.437,
        "update_norm": 1.1,
        "weight_distance": 2.8,
    }


def cost(rounds):
    return {
        "rounds": rounds,
        "bytes_up": 1092990,
        "bytes_down": 2842576,
        "gradient_equivalents": 25.9,
        "seconds": 0.52,
    }


def curve(*values):
    return [{"rounds": rounds, "forget_js": value} for rounds, value in enumerate(values)]


@pytest.fixture
def results():
    details = {
        "weight": 0.0328,
        "damping": 0.0188,
        "ritz_values": [0.026, 0.59, 5.6],
        "residual": 0.0825,
        "products": 3,
        "candidates": [
            {"weight": 7.6, "gain": 1.07, "damping": 0.56, "acceptable": True},
            {"weight": 0.0328, "gain": 1.06, "damping": 0.0188, "acceptable": True},
            {"weight": 0.0018, "gain": -31.7, "damping": 0.0017, "acceptable": False},
        ],
    }
    done = {"status": "done", "claim": "EMPIRICAL"}
    newton = measures(0.0356) | cost(14) | done
    newton |= {"curve": curve(0.1353, 0.08, 0.05, 0.04, 0.0356), "details": details}
    tuned = measures(0.0123, 0.73) | cost(13) | done
    tuned |= {"curve": curve(0.1353, 0.02, 0.0123), "details": {"rounds": 2}}
    return {
        "schema": 1,
        "fedunlearn": "0.1.0",
        "name": "small",
        "scenario": {
            "data": {"name": "digits", "alpha": 0.1},
            "unlearning": {
                "methods": ["cubic-newton", "fine-tune"],
                "recovery-rounds": 0,
                "cubic-newton": {"products": 3, "weight": "auto"},
            },
        },
        "names": NAMES,
        "environment": ENVIRONMENT,
        "requests": [
            {
                "forget": {
                    "kind": "node",
                    "description": "node 6",
                    "forgotten_examples": 306,
                    "retained_examples": 1042,
                },
                "floor": {"forget_js": 0.0104, "retain_js": 0.0037, "test_js": 0.0056},
                "trained": measures(0.1353, 0.95) | {"gradient_norm": 0.31352},
                "retrained": measures(0.0, 0.598) | cost(60),
                "methods": {"cubic-newton": newton, "fine-tune": tuned},
            }
        ],
    }


@pytest.fixture
def predictions():
    generator = torch.Generator().manual_seed(0)

    def probabilities(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).softmax(-1)

    examples = tuple(
        ExamplePredictions(
            torch.rand(4, 4, generator=generator), target, {m: probabilities(5) for m in MODELS}
        )
        for target in (1, 4)
    )
    means = {model: probabilities(2, 5) for model in MODELS}
    return ForgetSetPredictions((1, 4), (17, 23), means, examples)


def rendered(results, predictions):
    return render_report(results_of(results), predictions)


class Page(HTMLParser):
    """What a page holds; fails on tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.references, self.headings, self.words = [], [], [], [], []
        self.tags = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        for value in attributes.values():
            self.references += re.findall(r"(?:^|url\()#([^)]+)", value or "")
        self.references += attributes.get("aria-labelledby", "").split()
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).replace("\N{NO-BREAK SPACE}", " ").split())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_is_well_formed_with_unique_ids_and_no_dangling_references(results, predictions):
    results["requests"] *= 2
    page = Page(rendered(results, [predictions, predictions]))
    assert len(page.ids) == len(set(page.ids))
    assert set(page.references) <= set(page.ids)
    assert any("step" in reference for reference in page.references)


def test_needs_nothing_from_outside(results, predictions):
    text = rendered(results, [predictions])
    assert not re.search(r"https?:|@import|<script|<link|src=", text)
    links = re.findall(r'href="([^"]{1,12})', text)
    assert links
    assert all(link.startswith(("#", "data:image/")) for link in links)


def test_figures_take_every_colour_and_the_font_from_the_page(results, predictions):
    text = rendered(results, [predictions])
    figures = re.findall(r"<svg.*?</svg>", text, flags=re.S)
    assert len(figures) == len(MODELS) + len(predictions.examples) + 1 + 2
    defined = set(re.findall(r"(--[\w-]+):", text))
    for figure in figures:
        assert set(re.findall(r"var\((--[\w-]+)\)", figure)) <= defined
        assert not re.search(r"(?:fill|stroke): (?!none|var)", figure)
        assert "font-family" not in figure
        assert "<style" not in figure


def test_is_accessible(results, predictions):
    page = Page(rendered(results, [predictions]))
    assert page.all("html")[0]["lang"] == "en"
    assert page.headings[0] == 1
    steps = [
        after - before for before, after in zip(page.headings, page.headings[1:], strict=False)
    ]
    assert max(steps) == 1
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    assert all(header["scope"] in ("col", "row") for header in page.all("th"))
    assert len(page.all("figcaption")) == len(page.all("figure"))


def test_shows_every_number_of_the_table(results, predictions):
    page = Page(rendered(results, [predictions]))
    for name, cells in request_grid(summarise("s", [results_of(results)]), 0, OF_RUN).rows:
        line = " ".join(cell or "\N{EN DASH}" for cell in cells)
        assert f"{name} {line}" in page.text


def test_says_what_happened(results, predictions):
    text = Page(rendered(results, [predictions])).text
    assert "306 of 1348 training examples (22.7 %) leave." in text
    assert "cubic-newton lowers forget JS from 0.1353 to 0.0356 in 14 rounds" in text
    assert "retraining takes 60. That is 3.4 times the floor: not near it." in text
    assert "0.0123 in 13 rounds; retraining takes 60. That is 1.2 times the floor: near it." in text
    assert "EMPIRICAL : measured in this run; no certificate" in text
    assert "has norm 0.3135" in text


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (0.0099, "lowers forget JS from 0.1353 to 0.0099 in 14 rounds"),
        (0.0099, "That is within the floor."),
        (0.2, "raises forget JS from 0.1353 to 0.2000"),
        (0.2, "19.2 times the floor and further from the retrained model than before any removal."),
        (0.1353, "leaves forget JS at 0.1353"),
        (float("nan"), "gave a model whose predictions are not numbers."),
    ],
)
def test_says_where_a_method_ended(results, predictions, after, said):
    results["requests"][0]["methods"]["cubic-newton"]["forget_js"] = after
    assert said in Page(rendered(results, [predictions])).text


def test_says_where_there_was_little_to_remove(results, predictions):
    results["requests"][0]["trained"]["forget_js"] = 0.0101
    text = Page(rendered(results, [predictions])).text
    assert "the trained model was within the floor to begin with" in text


def test_without_a_floor(results, predictions):
    results["requests"][0]["floor"] = {}
    page = Page(rendered(results, [predictions]))
    assert "was not measured: only one was retrained." in page.text
    assert "times the floor" not in page.text
    assert "floor ends at" not in rendered(results, [predictions])


def test_without_ritz_values(results, predictions):
    results["requests"][0]["methods"]["cubic-newton"]["details"] = {}
    page = Page(rendered(results, [predictions]))
    assert "Ritz" not in page.text
    assert "Hollow" not in page.text


def test_shows_the_step_of_whichever_method_has_ritz_values(results, predictions):
    methods = results["requests"][0]["methods"]
    methods["fine-tune"]["details"] = methods["cubic-newton"].pop("details")
    page = Page(rendered(results, [predictions]))
    assert "Curvature and step of fine-tune" in page.text
    assert "-31.7" in page.text  # a gain outside the chart


def test_without_candidates_and_with_curvature_that_is_not_positive(results, predictions):
    details = results["requests"][0]["methods"]["cubic-newton"]["details"]
    details |= {"candidates": [], "ritz_values": [-0.5, 0.0, 0.3], "damping": 0.0, "weight": 0}
    page = Page(rendered(results, [predictions]))
    assert "Hollow triangles are negative values (1)" in page.text
    assert "Values of zero (1) are not drawn." in page.text
    assert "Choice of the cubic weight" not in page.text


def test_without_images(results, predictions):
    bare = tuple(
        ExamplePredictions(None, example.target, example.probabilities)
        for example in predictions.examples
    )
    shown = ForgetSetPredictions(
        predictions.classes, predictions.counts, predictions.mean_probabilities, bare
    )
    page = Page(rendered(results, [shown]))
    assert page.all("image") == []
    assert "label 4" in page.text
    assert len(Page(rendered(results, [predictions])).all("image")) == len(predictions.examples)


def test_with_recovery(results, predictions):
    entry = results["requests"][0]["methods"]["cubic-newton"]
    entry["before_recovery"] = measures(0.0417)
    results["scenario"]["unlearning"]["recovery-rounds"] = 2
    text = Page(rendered(results, [predictions])).text
    assert "in 14 rounds, the last 2 of them recovery (0.0417 before); retraining" in text
    assert "cubic-newton, before recovery 0.0417" in text
    assert "The last 2 points of every curve are recovery" in text


def test_a_divergence_of_zero_and_a_curve_of_one_point(results, predictions):
    methods = results["requests"][0]["methods"]
    methods["cubic-newton"] |= {"forget_js": 0.0, "curve": curve(0.1353, 0.01, 0.0)}
    methods["fine-tune"]["curve"] = curve(0.1353)
    assert "cubic-newton ends at 0.0000" in rendered(results, [predictions])


def test_values_that_are_not_finite_do_not_break_it(results, predictions):
    nan = float("nan")
    entry = results["requests"][0]["methods"]["cubic-newton"]
    entry["curve"] = curve(0.1353, nan)
    entry["details"]["candidates"][0]["gain"] = nan
    entry["details"]["ritz_values"][0] = nan
    predictions.mean_probabilities["cubic-newton"].fill_(nan)
    predictions.examples[0].probabilities["cubic-newton"].fill_(nan)
    Page(rendered(results, [predictions]))


def test_many_classes_and_methods(results):
    classes = 60
    request = results["requests"][0]
    for number in range(4):
        request["methods"][f"method-{number}"] = copy.deepcopy(request["methods"]["fine-tune"])
    models = ["trained", *request["methods"], "retrained"]
    even = torch.full((classes, classes), 1 / classes, dtype=torch.float64)
    example = ExamplePredictions(None, 59, {model: even[0] for model in models})
    predictions = ForgetSetPredictions(
        tuple(range(60)), (1,) * 60, {model: even for model in models}, (example,)
    )
    page = Page(rendered(results, [predictions]))
    assert len(page.all("figure")) == len(models) + 1 + 1 + 2


def test_escapes_what_others_wrote(results, predictions):
    hostile = '<script>alert("x")</script>'
    request = results["requests"][0]
    results["name"] = results["scenario"]["data"]["name"] = hostile
    request["forget"]["description"] = hostile
    request["methods"]["fine-tune"]["status"] = hostile
    request["methods"][hostile] = request["methods"].pop("fine-tune")
    for vectors in (
        predictions.mean_probabilities,
        *(e.probabilities for e in predictions.examples),
    ):
        vectors[hostile] = vectors.pop("fine-tune")
    text = rendered(results, [predictions])
    assert "<script" not in text
    assert Page(text).text.count("<script>") >= 5


def test_shows_settings_as_toml(results, predictions):
    text = Page(rendered(results, [predictions])).text
    assert '[data] name = "digits" alpha = 0.1' in text
    assert '[unlearning] methods = ["cubic-newton", "fine-tune"] recovery-rounds = 0' in text
    assert '[unlearning.cubic-newton] products = 3 weight = "auto"' in text
    assert 'fedunlearn = "0.1.0" transport = "inline" python = "3.11.7" torch' in text


def test_same_input_gives_the_same_bytes(results, predictions):
    assert rendered(results, [predictions]) == rendered(copy.deepcopy(results), [predictions])


def test_leaves_matplotlib_as_it_was(results, predictions):
    import matplotlib

    before = dict(matplotlib.rcParams)
    rendered(results, [predictions])
    assert dict(matplotlib.rcParams) == before


def test_wants_predictions_for_every_request(results):
    with pytest.raises(ValueError, match="zip"):
        rendered(results, [])


def test_says_what_recording_cost(results, predictions):
    assert "Recording" not in Page(rendered(results, [predictions])).text
    results["requests"][0]["methods"]["cubic-newton"]["recording"] = {
        "rounds": 3,
        "gradient_equivalents": 170.0,
        "bytes_up": 2_000_000,
        "bytes_down": 5_000,
        "seconds": 0.1,
    }
    text = Page(rendered(results, [predictions])).text
    assert "Recording when training ended took 3 rounds, 170.0 gradients," in text


def test_only_what_lies_before_the_result_is_drawn_hollow(results, predictions):
    assert "Hollow marks of cubic-newton" in Page(rendered(results, [predictions])).text
    results["requests"][0]["methods"]["cubic-newton"]["curve"] = curve(0.1353, 0.0356)
    assert "Hollow marks" not in Page(rendered(results, [predictions])).text
