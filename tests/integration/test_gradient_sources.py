"""Three sources of one gradient: where they agree, who must answer, and what they refuse."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from fedunlearn.errors import ForgetSetError, NotRecordedError
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.lab.run import run_scenario
from fedunlearn.progress import Silent
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.kinds import Gradient
from fedunlearn.recording.gradient import GradientAt
from fedunlearn.risk.task import Examples, Task
from fedunlearn.scenario.loading import LoadedScenario, parse_scenario
from fedunlearn.unlearning.cubic_newton import CubicNewton, CubicNewtonSettings
from fedunlearn.unlearning.influence import Influence, open_influence, to_record
from fedunlearn.unlearning.method import Unlearned
from fedunlearn.unlearning.stochastic_cubic_newton import StochasticCubicNewton
from tests.federations import TRANSPORTS, TinyTask
from tests.removals import (
    DECAY,
    PlaneTask,
    federation_of,
    gradient_norm,
    mean_objective,
    minimiser,
    pooled,
    trained_on,
)
from tests.tables import ROOT

NODES = range(4)
SOURCES = ("departing", "recorded", "retained")
FORGET = {
    "node": ForgetSet.of_nodes(2),
    "nodes": ForgetSet.of_nodes(0, 3),
    "samples": ForgetSet.of_samples(0.25, seed=3),
    "class": ForgetSet.of_class(1),
}
each_kind = pytest.mark.parametrize("kind", FORGET)
each_transport = pytest.mark.parametrize("transport", TRANSPORTS)


@cache
def trained(kind: str = "tiny", *, stationary: bool = False) -> TrainedModel:
    return trained_on(task_of(kind), NODES, stationary=stationary)


def task_of(kind: str) -> Task:
    return TinyTask() if kind == "tiny" else PlaneTask(kind)


def opened(
    federation: Federation, model: TrainedModel, forget: ForgetSet, source: str, **settings: Any
) -> tuple[Influence, Tensor]:
    defaults = {"completion": 0.3, "linearise_at": 0.85, "node_weights": "steps"}
    told: dict[str, Any] = defaults | settings
    if source == "recorded":
        model = federation.record(
            model, to_record("recorded", told["linearise_at"], told["node_weights"])
        )
    influence = open_influence(
        model,
        federation,
        forget,
        source=source,  # type: ignore[arg-type]
        **told,
    )
    return influence, influence.slope(None)


@each_kind
@pytest.mark.parametrize("task", ["tiny", "logistic"])
def test_all_agree_where_training_converged(task: str, kind: str) -> None:
    model = trained(task, stationary=True)
    assert gradient_norm(task_of(task), NODES, model) < 1e-10
    federation, _ = federation_of(task_of(task), NODES)
    steps = []
    for source in SOURCES:
        if source == "recorded":
            model = federation.record(model, [GradientAt(1.0, by_steps=False)])
        method = CubicNewton(
            CubicNewtonSettings.model_validate(
                {
                    "gradient": source,
                    "linearise-at": 1.0,
                    "products": 6,
                    "weight": 0.05,
                    "node-weights": "examples",
                }
            )
        )
        steps.append(method.unlearn(model, federation, FORGET[kind]).weights - model.weights)
    assert float(steps[0].norm()) > 1e-2
    for step in steps[1:]:
        assert float((step - steps[0]).norm()) <= 1e-6 * float(steps[0].norm())


@each_kind
@pytest.mark.parametrize("linearise_at", [0.5, 0.85, 1.0])
@pytest.mark.parametrize("completion", [0.0, 0.3, 1.0, "auto"])
def test_recorded_is_departing_wherever_training_stopped(
    kind: str, completion: float | str, linearise_at: float
) -> None:
    federation, _ = federation_of(TinyTask(), NODES)
    model = trained()
    settings = {"completion": completion, "linearise_at": linearise_at}
    (one, slope), (other, recorded) = (
        opened(federation, model, FORGET[kind], source, **settings)
        for source in ("departing", "recorded")
    )
    rounding = 1e-13
    assert gradient_norm(TinyTask(), NODES, model) > 1e-2
    assert float((recorded - slope).norm()) <= rounding * float(slope.norm() + 1.0)
    assert torch.equal(other.origin, one.origin)
    assert torch.equal(other.curved_at, one.curved_at)
    assert one.undone is not None and other.undone is not None
    assert dict(other.undone.as_dict()) == pytest.approx(dict(one.undone.as_dict()), rel=1e-10)

    generator = torch.Generator().manual_seed(1)
    steps = torch.randn(3, len(slope), generator=generator, dtype=torch.float64)
    moved = 0.1 * steps[0]
    for left, right in (
        (other.slope(moved), one.slope(moved)),
        (other.changes(moved, steps), one.changes(moved, steps)),
    ):
        torch.testing.assert_close(left, right, rtol=1e-11, atol=1e-12)


@each_kind
@pytest.mark.parametrize("source", ["departing", "recorded"])
def test_with_all_that_training_left_undone_it_is_the_papers(source: str, kind: str) -> None:
    federation, _ = federation_of(TinyTask(), NODES)
    settings = {"completion": 1.0, "linearise_at": 1.0}
    _, slope = opened(federation, trained(), FORGET[kind], source, **settings)
    paper, expected = opened(federation, trained(), FORGET[kind], "retained", **settings)
    torch.testing.assert_close(slope, expected, rtol=1e-11, atol=1e-13)
    assert paper.linear is None
    _, partly = opened(federation, trained(), FORGET[kind], source, linearise_at=1.0)
    assert float((partly - expected).norm()) > 1e-2 * float(expected.norm())


@each_kind
@pytest.mark.parametrize("source", SOURCES)
def test_each_is_the_gradient_of_an_objective_over_the_pooled_data(source: str, kind: str) -> None:
    """Against the definitions, with the nodes' data in one place."""
    federation, _ = federation_of(TinyTask(), NODES)
    completion, share, forget = 0.4, 0.7, FORGET[kind]
    influence, slope = opened(
        federation, trained(), forget, source, completion=completion, linearise_at=share
    )
    parts = {part: pooled(TinyTask(), NODES, forget, part) for part in Part}
    objectives = {p: mean_objective(TinyTask(), data, DECAY) for p, data in parts.items()}
    n_r, n_f = (len(parts[part][1]) for part in (Part.RETAIN, Part.FORGET))
    end, start = trained().weights, trained().initial
    point = start + share * (end - start)
    retain, gone = (torch.func.grad(objectives[part]) for part in (Part.RETAIN, Part.FORGET))
    if source == "retained":
        expected, origin = retain(end), end
        assert influence.undone is None
    else:
        undone = (n_r * retain(end) + n_f * gone(end)) / n_r
        expected, origin = -n_f / n_r * gone(point) + completion * undone, point
        assert influence.undone is not None
        length = float(undone.norm())
        assert influence.undone.gradient_norm == pytest.approx(length * n_r / (n_r + n_f))
        leaving = n_f / n_r * float(gone(point).norm())
        assert influence.undone.over_leaving == pytest.approx(length / leaving)
    torch.testing.assert_close(slope, expected)
    torch.testing.assert_close(influence.origin, origin)
    torch.testing.assert_close(influence.curved_at, point)

    # G is F_r but for a linear term: slopes and changes are those of one function.
    moved = torch.full_like(end, 0.05)
    linear = retain(origin) - expected
    torch.testing.assert_close(influence.slope(moved), retain(origin + moved) - linear)
    steps = torch.stack([moved, -2.0 * moved])
    at, value = origin + moved, objectives[Part.RETAIN]
    changes = torch.stack([value(at + s) - value(at) - linear @ s for s in steps])
    torch.testing.assert_close(influence.changes(moved, steps), changes)


class LeavingTask(TinyTask):
    """A task whose node 2 holds its data until it leaves; then it fails when it is asked.

    Attributes:
        here: Shared by all copies in this process; emptied when the node leaves.
    """

    def __init__(self, here: str) -> None:
        super().__init__()
        self.here = here

    def data(self, node: int) -> Examples:
        if node == 2 and not _HERE[self.here]:
            raise RuntimeError("this node has left")
        return super().data(node)


_HERE: dict[str, bool] = {}


@each_transport
@pytest.mark.parametrize("source", ["recorded", "retained"])
@pytest.mark.parametrize("share", [0.85, 1.0])
def test_a_node_that_has_left_is_never_asked(
    source: str, share: float, transport: str, request: pytest.FixtureRequest
) -> None:
    """The same result with the node there, with one that fails, and without it."""
    forget = ForgetSet.of_nodes(2)
    method = CubicNewton(
        CubicNewtonSettings.model_validate({"gradient": source, "linearise-at": share})
    )
    everyone, _ = federation_of(TinyTask(), NODES, transport=transport)
    model = everyone.record(trained(), method.to_record())
    expected = method.unlearn(model, everyone, forget)

    name = request.node.name
    _HERE[name] = True
    failing, heard = federation_of(LeavingTask(name), NODES, transport=transport)
    _HERE[name] = False
    rest = [node for node in NODES if node != 2]
    without, heard_without = federation_of(TinyTask(), rest, transport=transport)
    for federation, listening in ((failing, heard), (without, heard_without)):
        found = method.unlearn(model, federation, forget)
        assert listening.asked == set(rest)
        torch.testing.assert_close(found.weights, expected.weights, rtol=1e-9, atol=1e-10)
        assert found.details["rounds"] == expected.details["rounds"] == len(listening.heard)


@each_transport
def test_who_leaves_answers_departing_gradients_only(transport: str) -> None:
    federation, listening = federation_of(TinyTask(), NODES, transport=transport)
    CubicNewton(CubicNewtonSettings(products=3)).unlearn(trained(), federation, FORGET["node"])
    asked = [type(question.ask) for question, nodes in listening.heard if 2 in nodes]
    assert asked == [Gradient]


def test_what_was_not_recorded_is_named_with_its_remedy() -> None:
    federation, listening = federation_of(TinyTask(), NODES)
    method = CubicNewton(CubicNewtonSettings(gradient="recorded", linearise_at=0.85))
    assert method.to_record() == (GradientAt(0.85), GradientAt(1.0))
    partly = federation.record(trained(), [GradientAt(1.0)])
    listening.heard.clear()
    for model, says in (
        (trained(), r"no gradient at linearise-at = 1;"),
        (partly, r"no gradient at linearise-at = 0\.85;"),
        (federation.record(partly, [GradientAt(0.5)]), r"no gradient at linearise-at = 0\.85;"),
    ):
        with pytest.raises(NotRecordedError, match=says) as caught:
            method.unlearn(model, federation, FORGET["node"])
        assert "Federation.fit" in str(caught.value)
        assert "gradient = 'departing'" in str(caught.value)
        assert "\n" not in str(caught.value)
    for other in ("departing", "retained"):
        assert CubicNewton(CubicNewtonSettings(gradient=other)).to_record() == ()
    at_end = CubicNewtonSettings(gradient="recorded", linearise_at=1.0)
    assert CubicNewton(at_end).to_record() == (GradientAt(1.0),)


def test_recording_asks_once_for_each_share_and_keeps_what_it_had() -> None:
    federation, listening = federation_of(TinyTask(), NODES)
    half, whole, later = GradientAt(0.5), GradientAt(1.0), GradientAt(0.7)
    model = federation.record(trained(), [half, whole, half])
    assert len(listening.heard) == 2
    again = federation.record(model, [half, later])
    assert len(listening.heard) == 3
    assert set(again.recorded) == {half, whole, later}
    assert again.recorded[half] is model.recorded[half]
    everything = pooled(TinyTask(), NODES, ForgetSet.of_nodes(), Part.RETAIN)
    gradient = torch.func.grad(mean_objective(TinyTask(), everything, DECAY))
    for at in (half, whole, later):
        recorded = again.recorded[at]
        expected = gradient(trained().interpolated(at.share))
        torch.testing.assert_close(recorded.value.gradient, expected)
        assert recorded.value.examples == len(everything[0])
        assert recorded.spent.rounds == 1
    assert not trained().recorded


@each_transport
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("forget", [ForgetSet.of_class(7), ForgetSet.of_samples(1e-3, seed=1)])
def test_a_forget_set_that_nobody_holds_is_refused(
    forget: ForgetSet, source: str, transport: str
) -> None:
    federation, _ = federation_of(TinyTask(), NODES, transport=transport)
    with pytest.raises(ForgetSetError, match="no node has any example"):
        opened(federation, trained(), forget, source)


@pytest.mark.parametrize("source", ["departing", "recorded"])
def test_a_node_that_never_was_is_refused(source: str) -> None:
    """For ``retained`` nobody can tell it from one that has left."""
    federation, _ = federation_of(TinyTask(), NODES)
    with pytest.raises(ForgetSetError, match="no node has any example of node 9"):
        opened(federation, trained(), ForgetSet.of_nodes(9), source)


@each_transport
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("forget", [ForgetSet.of_nodes(*NODES), ForgetSet.of_samples(1.0, seed=1)])
def test_something_must_stay(forget: ForgetSet, source: str, transport: str) -> None:
    federation, _ = federation_of(TinyTask(), NODES, transport=transport)
    with pytest.raises(ForgetSetError, match="something must stay"):
        opened(federation, trained(), forget, source)


def test_the_stochastic_method_refuses_what_nobody_holds() -> None:
    federation, _ = federation_of(TinyTask(), NODES)
    with pytest.raises(ForgetSetError, match="no node has any example of class 7"):
        StochasticCubicNewton().unlearn(trained(), federation, ForgetSet.of_class(7))


@each_kind
@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
def test_several_steps_on_what_stays_converge_to_its_minimiser(curvature: str, kind: str) -> None:
    """The paper's gradient needs no converged training where the objective is convex."""
    model, forget = trained("logistic"), FORGET[kind]
    federation, _ = federation_of(PlaneTask(), NODES)
    rest = pooled(PlaneTask(), NODES, forget, Part.RETAIN)
    best = minimiser(mean_objective(PlaneTask(), rest, DECAY), model.weights)

    def distance(steps: int) -> float:
        settings = CubicNewtonSettings.model_validate(
            {
                "gradient": "retained",
                "curvature": curvature,
                "linearise-at": 1.0,
                "products": 9,
                "steps": steps,
                "weight": 1e-3,
                "node-weights": "examples",
            }
        )
        found: Unlearned = CubicNewton(settings).unlearn(model, federation, forget)
        return float((found.weights - best).norm() / best.norm())

    far, near, there = distance(1), distance(2), distance(6)
    assert far > near > there
    assert there < 1e-6


def test_a_scenario_records_by_itself_and_reports_it_apart() -> None:
    table: dict[str, Any] = {
        "training": {"rounds": 2},
        "evaluation": {"oracles": 1},
        "unlearning": {
            "methods": ["recorded", "here", "fine-tune"],
            "recorded": {
                "method": "cubic-newton",
                "gradient": "recorded",
                "weight": 0.1,
                "linearise-at": 0.85,
            },
            "here": {"method": "cubic-newton", "weight": 0.1, "linearise-at": 0.85},
            "fine-tune": {"rounds": 1},
        },
    }
    loaded = LoadedScenario("recorded", ROOT, parse_scenario(table))
    results = run_scenario(loaded, transport="inline", progress=Silent()).results.model_dump(
        mode="json"
    )
    (request,) = results["requests"]
    methods = request["methods"]
    assert list(methods) == ["recorded", "here", "fine-tune"]
    assert "recording" not in methods["here"] and "recording" not in methods["fine-tune"]

    recording = methods["recorded"]["recording"]
    forgotten, retained = (request["forget"][f"{p}_examples"] for p in ("forgotten", "retained"))
    assert recording["rounds"] == 2
    assert recording["gradient_equivalents"] == pytest.approx(2 * (1 + forgotten / retained))
    # A round up and down for each of ten nodes, in float32, and headers.
    size = 2 * 10 * 4 * (64 * 32 + 32 + 32 * 10 + 10)
    for way in ("bytes_up", "bytes_down"):
        assert size < recording[way] < size + 20 * 2000
    assert recording["seconds"] > 0.0

    own = methods["recorded"]
    assert own["rounds"] == 1 + 10  # one gradient by those who stay
    assert methods["here"]["rounds"] == 2 + 10
    whole = (forgotten + retained) / retained
    assert own["gradient_equivalents"] == pytest.approx(
        methods["here"]["gradient_equivalents"] - 2 * whole + 1
    )
    for key in ("forget_js", "update_norm", "retain_accuracy"):
        assert own[key] == pytest.approx(methods["here"][key], rel=1e-3)
    written = results["scenario"]["unlearning"]
    assert written["recorded"]["method"] == "cubic-newton"
    assert written["recorded"]["gradient"] == "recorded"
    assert "method" not in written["fine-tune"]
