"""What a node does with its examples in a round: one rule a class, each against its formula."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedunlearn.errors import TaskError
from fedunlearn.parameters import flatten, initial_weights, load
from fedunlearn.risk.local_rules import (
    RULES,
    Ascent,
    Descent,
    Distillation,
    FisherDescent,
    LocalPlan,
    LocalRule,
    UnlearningCrossEntropy,
)
from fedunlearn.risk.local_training import train_locally
from fedunlearn.risk.task import Examples
from tests.federations import TinyTask
from tests.laws import laws

pytestmark = pytest.mark.slow

TASK = TinyTask()
START = initial_weights(TASK.model, seed=1)
OTHER = initial_weights(TASK.model, seed=2)
EXAMPLES = TASK.data(3)
ONE_STEP = LocalPlan(epochs=1, batch_size=1000, learning_rate=0.3, weight_decay=0.02, order=(1,))
SMALL = LocalPlan(epochs=3, batch_size=4, learning_rate=0.1, weight_decay=0.0, order=(1,))
ALL = (
    Descent(),
    Ascent(radius=0.2, clip=1.0),
    UnlearningCrossEntropy(),
    Distillation(0.7, 0.3),
    FisherDescent(0.9, 0.99, 0.1),
)


def train(
    rule: LocalRule, plan: LocalPlan, start: Tensor = START, reference: Tensor | None = OTHER
) -> Tensor:
    return train_locally(TASK.model(), TASK.loss, EXAMPLES, start, plan, rule, reference)


def at(weights: Tensor, examples: Examples = EXAMPLES) -> tuple[nn.Module, Tensor]:
    model = TASK.model()
    load(model, weights)
    return model, model(examples[0])


def gradient(value: Tensor, model: nn.Module) -> Tensor:
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, list(model.parameters()))])


LEARNED = train(
    Descent(), LocalPlan(epochs=30, batch_size=8, learning_rate=0.2, weight_decay=0.0, order=(1,))
)


def test_every_rule_crosses_the_wire() -> None:
    assert {type(rule) for rule in ALL} == set(RULES.values())
    for rule in ALL:
        assert RULES[rule.name](**json.loads(json.dumps(asdict(rule)))) == rule


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.name)
def test_the_same_plan_gives_the_same_weights(rule: LocalRule) -> None:
    assert torch.equal(train(rule, SMALL), train(rule, SMALL))
    assert not torch.equal(train(rule, SMALL), START)


@pytest.mark.parametrize("rule", [Ascent(0.2, 1.0), Distillation(1.0, 0.0)])
def test_a_rule_that_needs_a_reference_says_so(rule: LocalRule) -> None:
    with pytest.raises(TaskError, match="needs reference weights"):
        train(rule, SMALL, reference=None)


@pytest.mark.parametrize("radius", [0.01, 0.5])
def test_ascent_climbs_inside_of_its_ball(radius: float) -> None:
    plan = LocalPlan(epochs=50, batch_size=4, learning_rate=0.3, weight_decay=0.1, order=(1,))
    climbed = train(Ascent(radius, clip=1.0), plan, start=LEARNED, reference=LEARNED)
    assert float((climbed - LEARNED).norm()) <= radius * (1 + 1e-12)
    assert TASK.loss(at(climbed)[1], EXAMPLES[1]) > TASK.loss(at(LEARNED)[1], EXAMPLES[1])


def test_ascent_clips_its_gradient() -> None:
    rule = Ascent(radius=10.0, clip=1e-3)
    step = train(rule, ONE_STEP, start=LEARNED, reference=LEARNED) - LEARNED
    assert float(step.norm()) == pytest.approx(0.3 * 1e-3, rel=1e-4)


def test_ascent_stops_at_the_loss_of_a_guess() -> None:
    lost = torch.zeros_like(START)  # all classes alike: the loss is ln 3 already
    lost[-1] = 5.0
    assert TASK.loss(at(lost)[1], EXAMPLES[1]) > math.log(3.0)
    assert torch.equal(train(Ascent(10.0, 1.0), SMALL, start=lost), lost)


def test_unlearning_descends_its_own_cross_entropy() -> None:
    model, outputs = at(START)
    chosen = outputs.softmax(1)[torch.arange(len(outputs)), EXAMPLES[1]]
    slope = gradient(-(1.0 - chosen / 2.0).log().mean(), model)
    torch.testing.assert_close(train(UnlearningCrossEntropy(), ONE_STEP), START - 0.3 * slope)
    _, after = at(train(UnlearningCrossEntropy(), SMALL))
    assert after.softmax(1)[torch.arange(len(after)), EXAMPLES[1]].mean() < chosen.mean()


@pytest.mark.parametrize("share", [1.0, -1.0])
def test_distillation_follows_the_divergence_from_its_teacher(share: float) -> None:
    model, outputs = at(START)
    teacher = at(OTHER)[1].detach().softmax(1)
    apart = (teacher * (teacher.log() - outputs.log_softmax(1))).sum(1).mean()
    value = share * apart + 0.4 * TASK.loss(outputs, EXAMPLES[1])
    decay = 0.02 * START if share > 0.0 else 0.0
    expected = START - 0.3 * (gradient(value, model) + decay)
    torch.testing.assert_close(train(Distillation(share, 0.4), ONE_STEP), expected)


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    found = train(Distillation(1.0, 0.0), SMALL, start=OTHER)
    torch.testing.assert_close(found, OTHER, rtol=0.0, atol=1e-12)


@laws(20)
@given(momentum=st.floats(0.0, 0.95), memory=st.floats(0.0, 0.99), damping=st.floats(0.01, 1.0))
def test_fisher_descent_divides_by_the_diagonal(
    momentum: float, memory: float, damping: float
) -> None:
    rows = []
    for inputs, target in zip(*EXAMPLES, strict=True):
        model, outputs = at(START, (inputs[None], target[None]))
        rows.append(gradient(TASK.loss(outputs, target[None]), model))
    each = torch.stack(rows)
    # After one step both averages are what they average.
    mean = each.mean(0) + 0.02 * START
    expected = START - 0.3 * mean / (each.square().mean(0) + damping)
    found = train(FisherDescent(momentum, memory, damping), ONE_STEP)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_models_are_left_at_what_they_learned() -> None:
    model = TASK.model()
    found = train_locally(model, TASK.loss, EXAMPLES, START, SMALL)
    assert torch.equal(flatten(model), found)
