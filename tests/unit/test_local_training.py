from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedunlearn.parameters import flatten
from fedunlearn.risk.local_rules import LocalPlan
from fedunlearn.risk.local_training import train_locally
from fedunlearn.risk.objective import EmpiricalRisk
from tests.cases import RISKS

COUNT = 24
PLAN = LocalPlan(epochs=2, batch_size=5, learning_rate=0.3, weight_decay=0.02, order=(1, 2, 3))


def _train(name: str, plan: LocalPlan, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Train from weights other than the model's; return start and end."""
    case = RISKS[name]
    model, examples = case.build(0, COUNT)
    start = flatten(case.build(1, COUNT)[0]) if weights is None else weights
    return start, train_locally(model, case.loss, examples, start, plan)


@pytest.mark.parametrize("name", RISKS)
def test_full_batch_epochs_are_gradient_descent_with_weight_decay(name: str) -> None:
    plan = replace(PLAN, epochs=2, batch_size=COUNT)
    start, end = _train(name, plan)
    model, examples = RISKS[name].build(0, COUNT)
    risk = EmpiricalRisk(model, RISKS[name].loss, examples)
    expected = start
    for _ in range(plan.epochs):
        slope = risk.gradient(expected) / COUNT + plan.weight_decay * expected
        expected = expected - plan.learning_rate * slope
    torch.testing.assert_close(end, expected, rtol=1e-11, atol=1e-13)
    assert float((end - start).norm()) > 1e-3


def test_each_example_is_used_once_an_epoch_in_batches() -> None:
    """On a mean squared error with a bias only, the steps of one epoch can be told by hand."""
    case = RISKS["linear, mse"]
    model, (_, targets) = case.build(0, COUNT)
    plan = LocalPlan(epochs=1, batch_size=1, learning_rate=1e-7, weight_decay=0.0, order=(4,))
    inputs = torch.zeros(COUNT, 5, dtype=torch.float64)
    start = torch.zeros(18, dtype=torch.float64)
    end = train_locally(model, case.loss, (inputs, targets), start, plan)
    # To first order in the step size the order does not matter: minus the sum of the gradients.
    expected = 1e-7 * 2.0 / 3.0 * targets.sum(0)
    torch.testing.assert_close(end[-3:], expected, rtol=1e-4, atol=0.0)
    assert not end[:-3].any()


def test_the_plan_fixes_the_weights() -> None:
    _, end = _train("mlp, cross-entropy", PLAN)
    torch.manual_seed(99)
    assert torch.equal(_train("mlp, cross-entropy", PLAN)[1], end)


@pytest.mark.parametrize(
    "change",
    [
        {"order": (1, 2, 4)},
        {"order": (3, 2, 1)},
        {"epochs": 3},
        {"batch_size": 6},
        {"learning_rate": 0.29},
        {"weight_decay": 0.0},
    ],
    ids=str,
)
def test_another_plan_gives_other_weights(change: dict[str, object]) -> None:
    _, end = _train("mlp, cross-entropy", PLAN)
    _, other = _train("mlp, cross-entropy", replace(PLAN, **change))  # type: ignore[arg-type]
    assert float((end - other).norm()) > 1e-6


def test_the_order_of_a_full_batch_does_not_matter() -> None:
    plan = replace(PLAN, batch_size=COUNT)
    _, end = _train("mlp, mse", plan)
    _, other = _train("mlp, mse", replace(plan, order=(9,)))
    torch.testing.assert_close(end, other, rtol=1e-12, atol=1e-14)


def test_the_start_is_not_modified_and_frozen_parameters_stay() -> None:
    case = RISKS["partly frozen, cross-entropy"]
    model, examples = case.build(0, COUNT)
    fixed = {
        key: value.clone()
        for key, value in model.state_dict().items()
        if key.startswith("frozen") or "running" in key
    }
    start = flatten(case.build(1, COUNT)[0])
    given = start.clone()
    end = train_locally(model, case.loss, examples, start, PLAN)
    assert torch.equal(start, given)
    assert not torch.equal(end, start)
    assert len(fixed) == 4
    for key, value in fixed.items():
        assert torch.equal(model.state_dict()[key], value)


def test_training_twice_from_the_same_start_does_not_depend_on_the_workspace() -> None:
    case = RISKS["mlp, mse"]
    model, examples = case.build(0, COUNT)
    start = flatten(case.build(1, COUNT)[0])
    first = train_locally(model, case.loss, examples, start, PLAN)
    assert torch.equal(train_locally(model, case.loss, examples, start, PLAN), first)
