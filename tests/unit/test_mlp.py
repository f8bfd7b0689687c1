"""The multilayer perceptron of a scenario, with the hidden layers that it names."""

from __future__ import annotations

import pytest
import torch

from fedunlearn.errors import ScenarioError
from fedunlearn.lab.scenario_task import ScenarioTask
from fedunlearn.models.catalogue import make_model
from fedunlearn.scenario.data import DataSettings
from fedunlearn.scenario.loading import parse_scenario


@pytest.mark.parametrize(
    ("hidden", "widths"), [(None, [64, 32, 10]), ((5,), [64, 5, 10]), ((7, 3), [64, 7, 3, 10])]
)
def test_the_hidden_layers_are_those_that_are_named(
    hidden: tuple[int, ...] | None, widths: list[int]
) -> None:
    network = make_model("mlp", torch.zeros(2, 1, 8, 8), 10, hidden)
    shapes = [tuple(one.shape) for name, one in network.named_parameters() if "weight" in name]
    assert shapes == list(zip(widths[1:], widths, strict=False))


def test_a_scenario_names_them() -> None:
    settings = parse_scenario({"model": {"hidden": [400, 400]}}).model
    network = ScenarioTask(DataSettings(), settings).model()
    assert sum(one.numel() for one in network.parameters()) == 64 * 400 + 400 * 400 + 4000 + 810


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"name": "cnn", "hidden": [8]}, "model.hidden: is for name = 'mlp', not 'cnn'; leave it"),
        ({"hidden": []}, "model.hidden: "),
        ({"hidden": [0]}, "model.hidden.0: must be greater than 0"),
    ],
)
def test_hidden_layers_that_cannot_be_are_one_line(model: dict[str, object], says: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse_scenario({"model": model})
    assert says in str(caught.value)
