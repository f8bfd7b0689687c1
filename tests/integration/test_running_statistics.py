"""Running statistics are estimated anew on the retain set, as torch estimates them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from fedunlearn.errors import ForgetSetError, TaskError
from fedunlearn.parameters import flatten
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.risk.products import Curvature
from tests.federations import TRANSPORTS
from tests.integration.test_state import (
    NODES,
    STAYS,
    Images,
    OneLayer,
    Plain,
    objective_of,
    pooled,
    state_of,
    trained,
)
from tests.integration.test_state import transport as transport


def shuffled(inputs: Tensor, size: int, seed: int, node: int) -> list[Tensor]:
    order = np.random.default_rng([seed, node]).permutation(len(inputs))
    return list(inputs[torch.from_numpy(order)].split(size))


def test_statistics_of_one_node_are_those_of_torch(transport: str) -> None:
    task = Images(size=12)
    model = trained(task)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    without = Images(size=12)
    without.model = lambda: model_without_dropout(task)  # type: ignore[method-assign]
    weights, state = flatten(model), state_of(model)
    objective = objective_of(TRANSPORTS[transport](without, 1), state, ForgetSet.of_nodes())
    found = objective.statistics(weights, 4, seed=5)
    update_bn(shuffled(task.data(0)[0], 4, 5, 0), model)
    assert set(found) == set(state)
    for layer in ("1", "6"):
        for kind in ("running_mean", "running_var"):
            name = f"{layer}.{kind}"
            assert not torch.equal(found[name], state[name])
            torch.testing.assert_close(found[name], model.state_dict()[name])


def model_without_dropout(task: Images) -> nn.Module:
    model = task.layers().double().eval()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def test_statistics_of_full_batches_are_those_of_the_pooled_data(transport: str) -> None:
    task = OneLayer(size=12)
    model = trained(task)
    weights, state = flatten(model), state_of(model)
    nodes = (0, 1)
    objective = objective_of(TRANSPORTS[transport](task, NODES), state)
    found = objective.statistics(weights, 64, seed=0)
    inputs = pooled(task, nodes)[0]
    torch.testing.assert_close(found["0.running_mean"], inputs.mean()[None])
    sizes = [len(task.data(node)[0]) for node in nodes]
    own = [task.data(node)[0].var() for node in nodes]
    mean = sum(n * var for n, var in zip(sizes, own, strict=True)) / sum(sizes)
    torch.testing.assert_close(found["0.running_var"], mean[None])


def test_nothing_of_what_leaves_enters_the_statistics(transport: str) -> None:
    results = []
    for shift in (0.0, 50.0):
        task = Images(shift)
        model = trained(Images())
        reach = TRANSPORTS[transport](task, NODES)
        objective = objective_of(reach, state_of(model))
        results.append(objective.statistics(flatten(model), 4, seed=1))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.parametrize("size", [9, 5, 1])
def test_a_last_batch_of_one_is_no_failure(size: int) -> None:
    task = Images(size=size)
    model = trained(Images())
    objective = objective_of(TRANSPORTS["inline"](task, 1), state_of(model), ForgetSet.of_nodes())
    found = objective.statistics(flatten(model), 4, seed=1)
    assert all(bool(torch.isfinite(value).all()) for value in found.values())
    if size == 1:
        with torch.no_grad():
            seen = model[0](task.data(0)[0])  # type: ignore[index]
        torch.testing.assert_close(found["1.running_mean"], seen.mean((0, 2, 3)))


def test_models_without_such_layers_are_not_asked() -> None:
    task = Plain()
    reach = TRANSPORTS["inline"](task, NODES)
    objective = objective_of(reach, {})
    with reach.meters.measure() as meter:
        assert objective.statistics(flatten(task.model()), 4, seed=1) == {}
    assert meter.rounds == objective.rounds == 0


def test_estimating_leaves_the_node_as_it_was(transport: str) -> None:
    task = Images()
    model = trained(task)
    weights, state = flatten(model), state_of(model)
    objective = objective_of(TRANSPORTS[transport](task, NODES), state)
    before = objective.gradients(weights).retain
    rows = torch.eye(len(weights)).double()[:3]
    product = objective.products(weights, rows, Curvature.GGN)
    with objective._meters.measure() as meter:
        new = objective.statistics(weights, 4, seed=1)
    assert meter.rounds == 1
    assert meter.example_gradients == pytest.approx(0.6 * objective.retained)
    assert torch.equal(objective.gradients(weights).retain, before)
    assert torch.equal(objective.products(weights, rows, Curvature.GGN), product)
    renewed = objective_of(TRANSPORTS[transport](task, NODES), new)
    assert not torch.equal(renewed.gradients(weights).retain, before)


def test_all_that_there_is_has_no_statistics_left() -> None:
    task = Images()
    everyone = ForgetSet.of_nodes(*range(NODES))
    objective = objective_of(TRANSPORTS["inline"](task, NODES), state_of(task.model()), everyone)
    with pytest.raises(ForgetSetError, match="something must stay"):
        objective.statistics(flatten(task.model()), 4, seed=1)


class OwnNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(1, dtype=torch.float64))
        self.register_buffer("running_var", torch.ones(1, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs - self.running_mean) / self.running_var.sqrt()


class Own(Images):
    def layers(self) -> nn.Module:
        return nn.Sequential(OwnNorm(), nn.Flatten(), nn.Linear(16, 3))


def test_layers_that_torch_does_not_know_are_named() -> None:
    task = Own()
    objective = objective_of(TRANSPORTS["inline"](task, 1), state_of(task.model()), STAYS)
    with pytest.raises(TaskError, match="node 0: model: layer '0' is OwnNorm, whose running"):
        objective.statistics(flatten(task.model()), 4, seed=1)


class Instances(Images):
    """InstanceNorm that tracks statistics, and a BatchNorm that is called twice."""

    def layers(self) -> nn.Module:
        norm = nn.BatchNorm2d(1)
        tracked = nn.InstanceNorm2d(1, track_running_stats=True)
        return nn.Sequential(tracked, norm, nn.Tanh(), norm, nn.Flatten(), nn.Linear(16, 3))


def test_layers_that_are_shared_or_track_instances_are_estimated_as_torch_does() -> None:
    task = Instances(size=12)
    model = trained(task)
    weights, state = flatten(model), state_of(model)
    objective = objective_of(TRANSPORTS["inline"](task, 1), state, ForgetSet.of_nodes())
    found = objective.statistics(weights, 6, seed=3)
    update_bn(shuffled(task.data(0)[0], 6, 3, 0), model)
    for kind in ("running_mean", "running_var"):
        torch.testing.assert_close(found[f"1.{kind}"], model.state_dict()[f"1.{kind}"])
    inputs = task.data(0)[0]
    torch.testing.assert_close(found["0.running_mean"], inputs.mean()[None])
    torch.testing.assert_close(found["0.running_var"], inputs.flatten(1).var(1).mean()[None])
