"""Where theory knows the answer, the whole federated path must give it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.flower.simulation import simulate
from fedunlearn.parameters import flatten
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.risk.task import Examples
from fedunlearn.settings import TrainingSettings
from fedunlearn.unlearning.cubic_newton import CubicNewton, CubicNewtonSettings

NODES, FEATURES, DECAY = 8, 12, 1e-2
SETTINGS = TrainingSettings(weight_decay=DECAY)
EXACT = CubicNewtonSettings(
    weight=0.0, linearise_at=1.0, products=FEATURES + 1, node_weights="examples"
)


class LinearTask:
    """Nodes whose inputs come from different distributions, in float64."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    @property
    def loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        return nn.MSELoss() if self.kind == "ridge" else nn.BCEWithLogitsLoss()

    def model(self) -> nn.Module:
        return nn.Linear(FEATURES, 1).double()

    def data(self, node: int) -> Examples:
        generator = torch.Generator().manual_seed(100 + node)
        inputs = torch.randn(200 + 30 * node, FEATURES, generator=generator).double()
        inputs += 0.5 * torch.randn(FEATURES, generator=generator).double()
        truth = torch.randn(FEATURES, 1, generator=torch.Generator().manual_seed(1)).double()
        noise = torch.randn(len(inputs), 1, generator=generator).double()
        scores = inputs @ truth + 2.0 * noise + 0.3 * node
        return inputs, scores if self.kind == "ridge" else (scores > 0).double()


def minimise(task: LinearTask, examples: list[Examples]) -> Tensor:
    """Return the minimiser of the mean loss plus (lambda/2)||w||^2, by Newton's method."""
    inputs = torch.cat([x for x, _ in examples])
    targets = torch.cat([y for _, y in examples])
    design = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.float64)], 1)

    def objective(weights: Tensor) -> Tensor:
        value: Tensor = task.loss((design @ weights)[:, None], targets)
        return value + 0.5 * DECAY * weights.square().sum()

    weights = torch.zeros(FEATURES + 1, dtype=torch.float64)
    for _ in range(30):
        gradient = torch.func.grad(objective)(weights)
        weights = weights - torch.linalg.solve(torch.func.hessian(objective)(weights), gradient)
    return weights


def unlearn(task: LinearTask, forget: ForgetSet, settings: CubicNewtonSettings) -> Tensor:
    trained = TrainedModel(
        weights=minimise(task, [task.data(node) for node in range(NODES)]),
        initial=flatten(task.model()),
        settings=SETTINGS,
    )

    def body(federation: Federation) -> Tensor:
        return CubicNewton(settings).unlearn(trained, federation, forget).weights

    return simulate(task, NODES, body)


def retrain(task: LinearTask, forget: ForgetSet) -> Tensor:
    return minimise(task, [task.data(n) for n in range(NODES) if n not in forget.nodes])


@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
@pytest.mark.parametrize("nodes", [(0,), (7,), (1, 3)])
def test_ridge_regression_gives_the_retrained_minimiser(
    nodes: tuple[int, ...], curvature: str
) -> None:
    task, forget = LinearTask("ridge"), ForgetSet.of_nodes(*nodes)
    settings = EXACT.model_copy(update={"curvature": curvature})
    retrained = retrain(task, forget)
    unlearned = unlearn(task, forget, settings)
    assert torch.linalg.norm(unlearned - retrained) <= 1e-6 * torch.linalg.norm(retrained)


@pytest.mark.parametrize(("steps", "factor"), [(1, 15), (2, 1e3), (3, 1e6)])
def test_logistic_regression_comes_closer_with_every_step(steps: int, factor: float) -> None:
    task = LinearTask("logistic")
    trained = minimise(task, [task.data(n) for n in range(NODES)])
    for node in range(NODES):
        forget = ForgetSet.of_nodes(node)
        retrained = retrain(task, forget)
        unlearned = unlearn(task, forget, EXACT.model_copy(update={"steps": steps}))
        before = torch.linalg.norm(trained - retrained)
        assert torch.linalg.norm(unlearned - retrained) <= before / factor


def test_samples_are_forgotten_as_exactly_as_nodes() -> None:
    task, forget = LinearTask("ridge"), ForgetSet.of_samples(0.3, seed=5)
    kept = []
    for node in range(NODES):
        inputs, targets = task.data(node)
        drawn = np.random.default_rng([5, node]).permutation(len(inputs))
        stay = np.sort(drawn[round(0.3 * len(inputs)) :])
        kept.append((inputs[stay], targets[stay]))
    retrained = minimise(task, kept)
    unlearned = unlearn(task, forget, EXACT)
    assert torch.linalg.norm(unlearned - retrained) <= 1e-6 * torch.linalg.norm(retrained)


def test_the_chosen_weight_does_no_harm_on_a_convex_problem() -> None:
    task, forget = LinearTask("logistic"), ForgetSet.of_nodes(2)
    retrained = retrain(task, forget)
    trained = minimise(task, [task.data(n) for n in range(NODES)])
    settings = EXACT.model_copy(update={"weight": "auto"})
    unlearned = unlearn(task, forget, settings)
    before = torch.linalg.norm(trained - retrained)
    assert torch.linalg.norm(unlearned - retrained) <= 0.5 * before
