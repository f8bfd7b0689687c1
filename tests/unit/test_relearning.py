"""Relearn time: what was kept is known again sooner."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fedunlearn.evaluation.relearning import relearn_epochs
from fedunlearn.risk.objective import EmpiricalRisk
from fedunlearn.settings import TrainingSettings

SETTINGS = TrainingSettings(batch_size=10, learning_rate=2.0, weight_decay=0.0)


@pytest.fixture(scope="module")
def risk() -> EmpiricalRisk:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(95, 4, generator=generator)
    return EmpiricalRisk(nn.Linear(4, 3), nn.CrossEntropyLoss(), (inputs, inputs[:, :3].argmax(1)))


@pytest.fixture(scope="module")
def trained(risk: EmpiricalRisk) -> Tensor:
    weights = torch.zeros(15)
    for _ in range(100):
        weights = weights - 0.5 * risk.gradient(weights) / len(risk)
    return weights


def loss(risk: EmpiricalRisk, weights: Tensor) -> float:
    return risk.value(weights) / len(risk)


def test_the_trained_model_has_nothing_to_relearn(risk: EmpiricalRisk, trained: Tensor) -> None:
    assert relearn_epochs(trained, risk, SETTINGS, loss(risk, trained)) == 0.0
    assert relearn_epochs(1.2 * trained, risk, SETTINGS, loss(risk, trained)) == 0.0  # better


def test_the_more_was_forgotten_the_longer_it_takes(risk: EmpiricalRisk, trained: Tensor) -> None:
    wanted = loss(risk, trained)
    taken = [
        relearn_epochs(share * trained, risk, SETTINGS, wanted) for share in (0.9, 0.5, 0.0, -1.0)
    ]
    assert taken == sorted(set(taken))
    assert 0.0 < taken[0] and taken[-1] < 10.0
    assert all(10 * epochs == pytest.approx(round(10 * epochs)) for epochs in taken)  # in batches


def test_it_is_done_as_soon_as_the_loss_is_within_a_twentieth(
    risk: EmpiricalRisk, trained: Tensor
) -> None:
    here = loss(risk, trained)
    assert relearn_epochs(trained, risk, SETTINGS, here / 1.04) == 0.0
    assert relearn_epochs(trained, risk, SETTINGS, here / 1.06) > 0.0


def test_a_model_that_does_not_get_there_is_reported_as_the_cap(
    risk: EmpiricalRisk, trained: Tensor
) -> None:
    slow = SETTINGS.model_copy(update={"learning_rate": 1e-6})
    assert relearn_epochs(0 * trained, risk, slow, loss(risk, trained)) == 10.0
    assert math.isnan(relearn_epochs(math.nan * trained, risk, SETTINGS, 1.0))


def test_the_same_model_takes_the_same_time(risk: EmpiricalRisk, trained: Tensor) -> None:
    before = trained.clone()
    first, second = (
        relearn_epochs(0.3 * trained, risk, SETTINGS, loss(risk, trained)) for _ in range(2)
    )
    assert first == second
    assert torch.equal(trained, before)
