"""Nodes weighted by their steps: against federated averaging, pooled data and other orders."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedunlearn.errors import BadAnswerError
from fedunlearn.federation.inline_federation import open_inline
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.federation.training import TrainingPlan
from fedunlearn.node.node import TaskNode
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.kinds import Summaries
from fedunlearn.questions.question import Answer, Question
from fedunlearn.questions.step_weights import StepWeights
from fedunlearn.risk.products import Curvature
from fedunlearn.unlearning.instant_cubic_newton import InstantCubicNewton
from tests.federations import TRANSPORTS, TinyTask
from tests.laws import laws
from tests.removals import DECAY, federation_of, mean_objective, trained_on

NODES = range(4)
BATCH = 5
FORGET = {
    "node": ForgetSet.of_nodes(2),
    "samples": ForgetSet.of_samples(0.4, seed=3),
    "class": ForgetSet.of_class(1),
    "class of a node": ForgetSet.of_class(2, on=[3]),
}
each_kind = pytest.mark.parametrize("kind", FORGET)


def trained() -> TrainedModel:
    model = trained_on(TinyTask(), NODES, stationary=False)
    return replace(model, settings=model.settings.model_copy(update={"batch_size": BATCH}))


def counts_of(retained: int, forgotten: int) -> dict[Part, int]:
    return {Part.RETAIN: retained, Part.FORGET: forgotten}


@laws(100)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=3, max_size=3),
    batch=st.one_of(st.none(), st.integers(1, 50)),
)
def test_masses_of_removals_add_up(sizes: list[int], batch: int | None) -> None:
    """Of one removal with what stays, and of two removals with both at once."""
    weights = StepWeights(batch)
    stays, first, second = sizes
    whole = weights.mass(counts_of(stays + first + second, 0), Part.RETAIN)
    both = weights.mass(counts_of(stays, first + second), Part.FORGET)
    one = weights.mass(counts_of(stays + second, first), Part.FORGET)
    other = weights.mass(counts_of(stays, second), Part.FORGET)
    retained = weights.mass(counts_of(stays, first + second), Part.RETAIN)
    assert whole == retained + both
    assert both == one + other
    if batch is None:
        assert whole == stays + first + second


def expected(kind: str, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return grad F_r and grad F from the definition, node by node."""
    steps = StepWeights(BATCH)
    task, sums, masses = TinyTask(), [0.0, 0.0], [0, 0]
    for node in NODES:
        inputs, targets = task.data(node)
        stay = FORGET[kind].select(Part.RETAIN, node, targets)
        for i, places in enumerate((stay, torch.arange(len(targets)))):
            if not len(places):
                continue
            one = mean_objective(task, (inputs[places], targets[places]), 0.0)
            mass = len(places) * steps.of(len(places))
            sums[i] = sums[i] + mass * torch.func.grad(one)(weights)
            masses[i] += mass
    retain, whole = (s / m + DECAY * weights for s, m in zip(sums, masses, strict=True))
    return retain, whole


@each_kind
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_gradients_are_those_of_the_weighted_objectives(kind: str, transport: str) -> None:
    federation, _ = federation_of(TinyTask(), NODES, transport=transport)
    weights = trained().weights
    retain, whole = expected(kind, weights)
    objective = federation.objective(FORGET[kind], weight_decay=DECAY, step_batch=BATCH)
    found = objective.gradients(weights)
    torch.testing.assert_close(found.retain, retain)
    torch.testing.assert_close(found.whole, whole)
    ratio = found.mass / found.retained_mass
    torch.testing.assert_close(found.departing, retain - ratio * whole)
    torch.testing.assert_close(objective.gradient(weights), retain)


@each_kind
def test_products_and_losses_belong_to_the_gradient(kind: str) -> None:
    federation, _ = federation_of(TinyTask(), NODES)
    weights = trained().weights
    objective = federation.objective(FORGET[kind], weight_decay=DECAY, step_batch=BATCH)
    small = 1e-4
    direction = torch.randn(
        len(weights), generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    moves = torch.stack([small * direction, -small * direction])
    slope = objective.gradient(weights)
    values = objective.losses(weights, moves)
    assert float(values[1] - values[2]) / (2 * small) == pytest.approx(
        float(slope @ direction), rel=1e-5
    )
    (product,) = objective.products(weights, direction[None], Curvature.HESSIAN)
    ahead, behind = (objective.gradient(weights + move) for move in moves)
    torch.testing.assert_close(product, (ahead - behind) / (2 * small), rtol=1e-4, atol=1e-6)


def test_small_steps_of_federated_averaging_follow_the_weighted_objective() -> None:
    """One round with a rate towards 0 moves along grad F with steps, and not without them."""
    task, model = TinyTask(), trained()
    nodes = {node: TaskNode(task, node) for node in NODES}
    federation = open_inline(nodes)
    rate, batch_size = 1e-6, 1  # which leaves no batch that is smaller than the others
    settings = model.settings.model_copy(
        update={"learning_rate": rate, "local_epochs": 1, "batch_size": batch_size, "rounds": 1}
    )
    after = federation.train(model.weights, TrainingPlan(settings, 1), label="one round")
    moved = (model.weights - after) / settings.horizon(federation.examples.values())
    for batch, same in ((batch_size, True), (None, False)):
        objective = federation.objective(ForgetSet.of_nodes(), weight_decay=DECAY, step_batch=batch)
        slope = objective.gradient(model.weights)
        assert (float((moved - slope).norm()) < 1e-3 * float(slope.norm())) is same


@pytest.mark.parametrize(
    "settings",
    [{}, {"groups": "nodes"}, {"policy": "on-departure"}],
    ids=str,
)
def test_recorded_removals_in_any_order_are_all_of_them_at_once(settings: dict[str, str]) -> None:
    """A node, a class of another one, and records: weights change with every removal."""
    federation, _ = federation_of(TinyTask(), NODES)
    method = InstantCubicNewton(range=4, krylov_directions=8, directions=6, **settings)
    model = federation.record(trained(), method.to_record())
    rules = [ForgetSet.of_nodes(2), ForgetSet.of_nodes(0)]
    if not settings or settings.get("policy"):
        rules.append(ForgetSet.of_class(2, on=[3]))
    ends = []
    for order in itertools.permutations(rules):
        last = model
        for forget in order:
            found = method.unlearn(last, federation, forget)
            assert found.trained is not None
            last = found.trained
        ends.append(last.weights)
    assert float((ends[0] - model.weights).norm()) > 1e-3
    for other in ends[1:]:
        torch.testing.assert_close(other, ends[0], rtol=1e-8, atol=1e-10)


@each_kind
def test_stored_and_sent_summaries_agree(kind: str) -> None:
    ends = []
    for policy in ("stored", "on-departure"):
        federation, _ = federation_of(TinyTask(), NODES)
        method = InstantCubicNewton(range=4, krylov_directions=8, directions=6, policy=policy)
        model = federation.record(trained(), method.to_record())
        ends.append(method.unlearn(model, federation, FORGET[kind]).weights)
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("place", [0, 1], ids=["examples", "mass"])
@pytest.mark.parametrize("value", [-1.0, 0.0, 1e6])
@pytest.mark.parametrize("groups", ["nodes", "classes"])
def test_a_node_whose_summaries_count_other_examples_is_named(
    place: int, value: float, groups: str
) -> None:
    federation, listening = federation_of(TinyTask(), NODES)
    honest = listening.transport

    class Lying:
        def ask(
            self, question: Question, nodes: Sequence[int], /, *, deadline_s: float
        ) -> Iterator[Answer]:
            for answer in honest.ask(question, nodes, deadline_s=deadline_s):
                if isinstance(question.ask, Summaries) and answer.node == 1:
                    for rows in answer.values.values():
                        rows[0, place] = value
                yield answer

    listening.transport = Lying()
    method = InstantCubicNewton(range=4, krylov_directions=8, directions=6, groups=groups)
    with pytest.raises(BadAnswerError, match="node 1 answered with summaries of other") as caught:
        federation.record(trained(), method.to_record())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("batch", [1000, 2**31, 2**40])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_full_batches_of_any_size_count_every_example_once(batch: int, transport: str) -> None:
    federation, _ = federation_of(TinyTask(), NODES, transport=transport)
    weights = trained().weights
    found, plain = (
        federation.objective(FORGET["samples"], weight_decay=DECAY, step_batch=size).gradient(
            weights
        )
        for size in (batch, None)
    )
    torch.testing.assert_close(found, plain)
