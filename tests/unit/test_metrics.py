"""Metrics against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from fedunlearn.evaluation.metrics import (
    Parts,
    Predictions,
    accuracy,
    compare,
    floor,
    js_divergence,
    losses,
)


def random_probabilities(seed: int, count: int = 40, classes: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(count, classes, generator=generator).double()).softmax(1)


@given(st.integers(0, 1000))
def test_js_is_scipys_squared_distance_in_nats(seed: int) -> None:
    left, right = random_probabilities(seed), random_probabilities(seed + 1)
    wanted = np.mean(
        [jensenshannon(a, b) ** 2 for a, b in zip(left.numpy(), right.numpy(), strict=True)]
    )
    assert js_divergence(left, right) == pytest.approx(wanted, rel=1e-9)
    assert js_divergence(left, right) == pytest.approx(js_divergence(right, left))
    assert js_divergence(left, left) == pytest.approx(0.0, abs=1e-15)


def test_js_of_certain_and_opposite_predictions_is_ln_2() -> None:
    left, right = torch.eye(2).double(), torch.eye(2).double().flip(0)
    assert js_divergence(left, right) == pytest.approx(math.log(2))


def test_losses_and_accuracy() -> None:
    probabilities = torch.tensor([[0.7, 0.3], [0.4, 0.6], [0.9, 0.1]]).double()
    targets = torch.tensor([0, 1, 1])
    assert accuracy(probabilities, targets) == pytest.approx(2 / 3)
    assert losses(probabilities, targets).exp().reciprocal().tolist() == pytest.approx(
        [0.7, 0.6, 0.1]
    )


def parts(seed: int = 0) -> Parts:
    generator = torch.Generator().manual_seed(seed)

    def some(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = torch.randn(count, 4, generator=generator)
        return inputs, torch.randint(0, 3, (count,), generator=generator)

    return Parts(some(20), some(50), some(30), owners=torch.arange(50) % 4)


def model(seed: int, examples: Parts) -> Predictions:
    matrix = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
    return Predictions.at(lambda inputs: inputs @ matrix, examples)


def test_the_oracle_compared_with_itself_is_perfect() -> None:
    examples = parts()
    oracle = model(1, examples)
    result = compare(oracle, oracle, examples)
    assert result["tow"] == 1.0
    assert all(result[f"{part}_js"] == pytest.approx(0, abs=1e-12) for part in ("forget", "test"))


def test_tow_multiplies_the_gaps() -> None:
    examples = parts()
    oracle, other = model(1, examples), model(2, examples)
    result, own = compare(other, oracle, examples), compare(oracle, oracle, examples)
    wanted = 1.0
    for part in ("forget", "retain", "test"):
        wanted *= 1 - abs(result[f"{part}_accuracy"] - own[f"{part}_accuracy"])
    assert result["tow"] == pytest.approx(wanted)
    assert 0 < wanted < 1


def test_the_nodes_are_served_as_their_own_examples_are() -> None:
    examples = parts()
    predicted = model(1, examples)
    right = (predicted.of_part["retain"].argmax(1) == examples.retain[1]).double()
    of_node = [float(right[node::4].mean()) for node in range(4)]
    result = compare(predicted, predicted, examples)
    assert result["worst_node_accuracy"] == min(of_node)
    assert result["node_accuracy_spread"] == pytest.approx(np.std(of_node), rel=1e-6)


def test_floor_is_the_mean_over_all_pairs() -> None:
    examples = parts()
    models = [model(seed, examples) for seed in range(3)]
    rows = [m.of_part["retain"] for m in models]
    pairs = [js_divergence(rows[i], rows[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert floor(models)["retain_js"] == pytest.approx(sum(pairs) / 3)
    assert floor(models[:1]) == {}
