"""Removal from recorded summaries: exact where it must be, additive, and without a round."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedunlearn.errors import ForgetSetError, NotRecordedError
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.kinds import GroupGradients, Losses, Products, Summaries
from fedunlearn.recording.recording import Group, Recording
from fedunlearn.risk.task import Task
from fedunlearn.unlearning.instant_cubic_newton import (
    InstantCubicNewton,
    InstantCubicNewtonSettings,
)
from fedunlearn.unlearning.method import Unlearned
from tests.federations import TRANSPORTS, TinyTask
from tests.removals import (
    DECAY,
    PlaneTask,
    RecordingTransport,
    federation_of,
    mean_objective,
    minimiser,
    pooled,
    trained_on,
)

NODES = range(5)
FORGET = {
    "node": ForgetSet.of_nodes(2),
    "nodes": ForgetSet.of_nodes(0, 3),
    "samples": ForgetSet.of_samples(0.25, seed=3),
    "samples of a node": ForgetSet.of_samples(0.5, seed=1, on=[4]),
    "class": ForgetSet.of_class(1),
    "class of a node": ForgetSet.of_class(2, on=[1]),
}
NO_ROUND = {"node", "nodes", "class", "class of a node"}
each_kind = pytest.mark.parametrize("kind", FORGET)
each_transport = pytest.mark.parametrize("transport", TRANSPORTS)
POLICIES = [
    {},
    {"groups": "nodes"},
    {"policy": "on-departure"},
    {"policy": "on-departure", "sums_only": True},
]


def task_of(kind: str) -> Task:
    return TinyTask() if kind == "tiny" else PlaneTask(kind)


@cache
def trained(kind: str = "tiny", *, stationary: bool = False) -> TrainedModel:
    return trained_on(task_of(kind), NODES, stationary=stationary)


def recorded(
    method: InstantCubicNewton,
    kind: str = "tiny",
    *,
    transport: str = "inline",
    stationary: bool = False,
) -> tuple[TrainedModel, Federation, RecordingTransport]:
    """Return a model with its summaries, and the federation, which has heard nothing since."""
    federation, listening = federation_of(task_of(kind), NODES, transport=transport)
    model = federation.record(trained(kind, stationary=stationary), method.to_record())
    listening.heard.clear()
    return model, federation, listening


def method_of(**settings: Any) -> InstantCubicNewton:
    return InstantCubicNewton(InstantCubicNewtonSettings(**settings))


def recording_in(model: TrainedModel) -> Recording:
    (kept,) = model.recorded.values()
    assert isinstance(kept.value, Recording)
    return kept.value


def one_by_one(
    method: InstantCubicNewton, model: TrainedModel, federation: Federation, *sets: ForgetSet
) -> Unlearned:
    for forget in sets:
        found = method.unlearn(model, federation, forget)
        assert found.trained is not None
        model = found.trained
    return found


@pytest.mark.parametrize("kind", [k for k in FORGET if "class" not in k])  # ridge has none
@pytest.mark.parametrize("settings", POLICIES)
def test_a_quadratic_objective_gives_the_retrained_minimiser(
    kind: str, settings: dict[str, Any]
) -> None:
    """Where the subspace holds everything and was recorded at w^."""
    method = method_of(weight=0.0, linearise_at=1.0, node_weights="examples", **settings)
    model, federation, _ = recorded(method, "ridge", stationary=True)
    stays = pooled(task_of("ridge"), NODES, FORGET[kind], Part.RETAIN)
    exact = minimiser(mean_objective(task_of("ridge"), stays, DECAY), model.weights)
    found = method.unlearn(model, federation, FORGET[kind])
    assert float((exact - model.weights).norm()) > 1e-3
    torch.testing.assert_close(found.weights, exact, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("node", NODES)
def test_a_convex_objective_is_removed_nearly(node: int) -> None:
    method = method_of(weight=0.0, linearise_at=1.0, node_weights="examples")
    model, federation, listening = recorded(method, "logistic", stationary=True)
    stays = pooled(task_of("logistic"), NODES, ForgetSet.of_nodes(node), Part.RETAIN)
    exact = minimiser(mean_objective(task_of("logistic"), stays, DECAY), model.weights)
    found = method.unlearn(model, federation, ForgetSet.of_nodes(node))
    before = float((model.weights - exact).norm())
    assert float((found.weights - exact).norm()) < 0.25 * before
    assert not listening.heard


@each_kind
@each_transport
@pytest.mark.parametrize("settings", POLICIES)
def test_who_is_asked_and_how_often(kind: str, settings: dict[str, Any], transport: str) -> None:
    method = method_of(range=4, krylov_directions=8, directions=6, **settings)
    model, federation, listening = recorded(method, transport=transport)
    forget = FORGET[kind]
    found = method.unlearn(model, federation, forget)
    stored = not settings and kind in NO_ROUND
    stored = stored or (settings == {"groups": "nodes"} and forget.nodes != frozenset())
    asked = [nodes for _, nodes in listening.heard]
    assert asked == ([] if stored else [tuple(sorted(forget.named or NODES))])
    assert all(isinstance(question.ask, Summaries) for question, _ in listening.heard)
    assert found.details["rounds"] == len(listening.heard)


@each_kind
def test_policies_and_transports_agree(kind: str) -> None:
    """What is stored and what is told on departure are the same numbers."""
    steps = []
    for settings, transport in itertools.product(({}, {"policy": "on-departure"}), TRANSPORTS):
        method = method_of(range=4, krylov_directions=8, directions=6, **settings)
        model, federation, _ = recorded(method, transport=transport)
        steps.append(method.unlearn(model, federation, FORGET[kind]).weights - model.weights)
    assert float(steps[0].norm()) > 1e-3
    for other in steps[1:]:
        torch.testing.assert_close(other, steps[0], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("settings", POLICIES)
def test_a_sequence_is_the_batch_in_any_order(settings: dict[str, Any]) -> None:
    method = method_of(range=4, krylov_directions=8, directions=6, **settings)
    model, federation, _ = recorded(method)
    at_once = method.unlearn(model, federation, ForgetSet.of_nodes(0, 1, 3)).weights
    for order in itertools.permutations((0, 1, 3)):
        found = one_by_one(method, model, federation, *map(ForgetSet.of_nodes, order))
        torch.testing.assert_close(found.weights, at_once, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("settings", POLICIES)
def test_rules_that_overlap_remove_nothing_twice(settings: dict[str, Any]) -> None:
    """A class, a node that had some of it, records of others: in any order the same."""
    rules = (ForgetSet.of_class(1), ForgetSet.of_nodes(2), ForgetSet.of_samples(0.3, seed=5))
    method = method_of(range=4, krylov_directions=8, directions=6, **settings)
    if settings == {"groups": "nodes"}:  # shared groups lose their records' part each time
        rules = rules[1:]
    model, federation, _ = recorded(method)
    left = set()
    for order in itertools.permutations(rules):
        found = one_by_one(method, model, federation, *order)
        assert found.trained is not None
        kept = recording_in(found.trained)
        left.add(kept.stays.examples)
        torch.testing.assert_close(
            found.weights, one_by_one(method, model, federation, *rules).weights
        )
    gone = sum(
        len(targets)
        - int(torch.stack([~rule.forgotten_by_now(node, targets) for rule in rules]).all(0).sum())
        for node in NODES
        for targets in [TinyTask().data(node)[1]]
    )
    assert left == {kept.examples - gone}


def test_a_node_that_has_vanished_can_be_removed() -> None:
    method = method_of()
    model, federation, _ = recorded(method)
    nobody, heard = federation_of(TinyTask(), [0])
    there = method.unlearn(model, federation, ForgetSet.of_nodes(2))
    gone = method.unlearn(model, nobody, ForgetSet.of_nodes(2))
    assert torch.equal(there.weights, gone.weights)
    assert not heard.heard


@pytest.mark.parametrize("settings", POLICIES)
@each_transport
def test_recording_takes_few_rounds_and_sees_what_it_says(
    settings: dict[str, Any], transport: str
) -> None:
    method = method_of(range=4, krylov_directions=8, directions=6, **settings)
    federation, listening = federation_of(TinyTask(), NODES, transport=transport)
    model = federation.record(trained(), method.to_record())
    (kept,) = model.recorded.values()
    asks = [question.ask for question, _ in listening.heard]
    assert [type(ask) for ask in asks] == [GroupGradients, Products, Summaries]
    assert kept.spent.rounds == 3
    recording = recording_in(model)
    labelled = not settings
    assert set(recording.groups) == (
        {Group(n, label) for n in NODES for label in TinyTask().data(n)[1].unique().tolist()}
        if labelled
        else {Group(n, None) for n in NODES}
        if settings == {"groups": "nodes"}
        else set()
    )
    if settings.get("sums_only"):
        assert isinstance(asks[0], GroupGradients) and asks[0].signs is not None
    assert recording.basis.size == 6
    rows = recording.basis.whole()
    torch.testing.assert_close(rows @ rows.T, torch.eye(6).double(), atol=1e-12, rtol=0.0)


@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
def test_sums_are_what_they_say(curvature: str) -> None:
    method = method_of(
        range=4, krylov_directions=8, directions=6, curvature=curvature, linearise_at=0.7
    )
    model, _, _ = recorded(method)
    recording = recording_in(model)
    rows = recording.basis.whole()
    everything = pooled(TinyTask(), NODES, ForgetSet.of_nodes(), Part.RETAIN)
    point = model.interpolated(0.7)
    mean = mean_objective(TinyTask(), everything, 0.0)
    count = len(everything[0])
    gradient = count * rows @ torch.func.grad(mean)(point)
    np.testing.assert_allclose(recording.stays.gradient, gradient.numpy(), rtol=1e-9, atol=1e-9)
    if curvature == "hessian":
        hessian = count * rows @ torch.func.hessian(mean)(point) @ rows.T
        np.testing.assert_allclose(recording.stays.curvature, hessian, rtol=1e-8, atol=1e-8)
    for one in (recording.stays, *recording.groups.values()):
        assert np.linalg.eigvalsh(one.curvature).min() > (-1e-9 if curvature == "ggn" else -np.inf)
    total = sum(s.examples for s in recording.groups.values())
    assert total == recording.stays.examples == recording.examples == count


def test_what_was_removed_is_kept_nowhere() -> None:
    method = method_of(range=4, krylov_directions=8, directions=6)
    model, federation, _ = recorded(method)
    before = recording_in(model)
    found = method.unlearn(model, federation, ForgetSet.of_nodes(2))
    assert found.trained is not None
    after = recording_in(found.trained)
    assert {group for group in before.groups if group not in after.groups} == {
        group for group in before.groups if group.node == 2
    }
    with pytest.raises(ForgetSetError, match="no node has any example of node 2"):
        method.unlearn(found.trained, federation, ForgetSet.of_nodes(2))


@each_transport
def test_who_leaves_sends_at_most_4_kilobytes(transport: str) -> None:
    class Wide(TinyTask):
        def model(self) -> torch.nn.Module:
            layers = (torch.nn.Linear(2, 32), torch.nn.Tanh(), torch.nn.Linear(32, 3))
            return torch.nn.Sequential(*layers).float()

        def data(self, node: int) -> tuple[Tensor, Tensor]:
            inputs, targets = super().data(node)
            return inputs.float(), targets

    method = method_of(policy="on-departure")
    federation, _ = federation_of(Wide(), NODES, transport=transport)
    model = federation.record(trained_on(Wide(), NODES, stationary=False), method.to_record())
    assert recording_in(model).basis.size == 40
    with federation.measure() as meter:
        method.unlearn(model, federation, ForgetSet.of_nodes(2))
    assert 4 * 862 <= meter.bytes_up <= 4096


def test_a_check_asks_who_stays_once_and_damps_what_was_too_long() -> None:
    """Without damping, at a point where the leaver's loss is still steep, the step overshoots."""
    bold = method_of(weight=1e-9, linearise_at=0.3)
    model, federation, listening = recorded(bold)
    unchecked = bold.unlearn(model, federation, ForgetSet.of_nodes(4))
    assert not listening.heard
    wary = method_of(weight=1e-9, linearise_at=0.3, check=True)
    checked = wary.unlearn(model, federation, ForgetSet.of_nodes(4))
    ((question, nodes),) = listening.heard
    assert isinstance(question.ask, Losses)
    assert nodes == (0, 1, 2, 3)
    assert checked.details["rounds"] == 1
    gains = [candidate["gain"] for candidate in checked.details["candidates"]]
    assert len(gains) == 4
    assert abs(gains[-1] - 1.0) < abs(gains[0] - 1.0)
    assert checked.details["step_norm"] <= unchecked.details["step_norm"]


def test_the_objective_of_a_check_is_the_influence_objective() -> None:
    """A quadratic model foretells a quadratic objective exactly: every gain ratio is 1."""
    method = method_of(check=True, linearise_at=0.8)
    model, federation, _ = recorded(method, "ridge")
    found = method.unlearn(model, federation, FORGET["node"])
    for candidate in found.details["candidates"]:
        assert candidate["gain"] == pytest.approx(1.0, rel=1e-6)


def test_summaries_of_another_model_are_refused() -> None:
    method = method_of()
    model, federation, _ = recorded(method)
    with pytest.raises(NotRecordedError, match="training recorded no summaries"):
        method.unlearn(trained(), federation, FORGET["node"])
    moved = replace(model, weights=model.weights + 1.0)
    with pytest.raises(NotRecordedError, match="belong to another model"):
        method.unlearn(moved, federation, FORGET["node"])
    with pytest.raises(NotRecordedError, match="training recorded no summaries"):
        method_of(directions=7).unlearn(model, federation, FORGET["node"])
    check_only = method_of(check=True)  # how the step is chosen does not concern the recording
    assert check_only.unlearn(model, federation, FORGET["node"]).weights is not None


@pytest.mark.parametrize("settings", POLICIES)
@pytest.mark.parametrize(
    "forget", [ForgetSet.of_class(7), ForgetSet.of_samples(1e-3, seed=1), ForgetSet.of_nodes()]
)
def test_nothing_to_forget_is_refused(settings: dict[str, Any], forget: ForgetSet) -> None:
    method = method_of(range=4, krylov_directions=8, directions=6, **settings)
    model, federation, _ = recorded(method)
    with pytest.raises(ForgetSetError, match="forget: no node has any example"):
        method.unlearn(model, federation, forget)


@pytest.mark.parametrize("settings", POLICIES)
def test_something_must_stay(settings: dict[str, Any]) -> None:
    method = method_of(range=4, krylov_directions=8, directions=6, **settings)
    model, federation, _ = recorded(method)
    with pytest.raises(ForgetSetError, match="something must stay"):
        method.unlearn(model, federation, ForgetSet.of_nodes(*NODES))


def test_samples_of_the_examples_answer_products_only() -> None:
    """The gradient is exact whatever the sample; the curvature is an estimate of the whole."""
    whole = method_of(range=4, krylov_directions=4, directions=4)
    part = method_of(range=4, krylov_directions=4, directions=4, product_share=0.5)
    exact, estimate = (recording_in(recorded(method)[0]) for method in (whole, part))
    np.testing.assert_allclose(estimate.stays.gradient, exact.stays.gradient)
    assert not np.allclose(estimate.stays.curvature, exact.stays.curvature, rtol=1e-9)
    np.testing.assert_allclose(
        np.trace(estimate.stays.curvature), np.trace(exact.stays.curvature), rtol=0.5
    )


def test_a_model_without_a_minimum_moves_nothing_and_keeps_what_was_recorded() -> None:
    method = method_of(weight=0.0, curvature="hessian", linearise_at=0.3)
    model, federation, _ = recorded(method)
    found = method.unlearn(model, federation, ForgetSet.of_nodes(4))
    assert "use a positive weight" in found.status
    assert torch.equal(found.weights, model.weights)
    assert found.trained is model


def test_a_node_that_is_not_there_is_named() -> None:
    method = method_of(range=4, krylov_directions=8, directions=6)
    model, federation, _ = recorded(method)
    with pytest.raises(ForgetSetError, match="node 9 has left already, or was never recorded"):
        method.unlearn(model, federation, ForgetSet.of_nodes(1, 9))
