"""The plan of ``auto``: which stage is taken, what it costs, and what it says."""

from __future__ import annotations

import json
import math
from functools import cache
from typing import Any

import pytest
import torch

from fedunlearn.federation.federation import Federation
from fedunlearn.federation.inline_federation import open_inline
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.node.node import TaskNode
from fedunlearn.parameters import initial_weights
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.recording.checkpoints import TrainingCheckpoints
from fedunlearn.settings import TrainingSettings
from fedunlearn.unlearning.auto import Auto
from fedunlearn.unlearning.method import Claim, Unlearned
from fedunlearn.unlearning.retrain import Retrain
from tests.federations import TinyTask

NODES = 4
SETTINGS = TrainingSettings(rounds=20, learning_rate=0.3, batch_size=8, weight_decay=1e-3)
FORGET = ForgetSet.of_nodes(2)


def federation() -> Federation:
    task = TinyTask()
    return open_inline({node: TaskNode(task, node) for node in range(NODES)})


@cache
def trained(record: bool = False) -> TrainedModel:
    wanted = Auto(record=record).to_record()
    return federation().fit(initial_weights(TinyTask().model, seed=3), SETTINGS, record=wanted)


def removed(
    record: bool = False, forget: ForgetSet = FORGET, **settings: Any
) -> tuple[Unlearned, int, float, list[int]]:
    reported: list[int] = []
    nodes = federation()
    with nodes.measure() as meter:
        found = Auto(record=record, **settings).unlearn(
            trained(record), nodes, forget, on_round=lambda number, _: reported.append(number)
        )
    assert json.dumps(dict(found.details))
    assert found.details["rounds"] == meter.rounds == (reported[-1] if reported else 0)
    return found, meter.rounds, meter.example_gradients, reported


def stages(found: Unlearned) -> list[tuple[str, bool]]:
    return [(stage["stage"], stage["taken"]) for stage in found.details["plan"]]


def test_checkpoints_lie_at_equal_distances_and_cost_no_round() -> None:
    (recorded,) = trained().recorded.values()
    assert list(recorded.value.weights) == list(range(2, 21, 2))
    assert recorded.spent.rounds == 0
    torch.testing.assert_close(recorded.value.weights[20], trained().weights)
    assert not Auto(checkpoints=0).to_record()


def test_where_little_is_wanted_a_recorded_step_does_without_a_round() -> None:
    found, rounds, compute, _ = removed(record=True, closeness=1e9)
    assert stages(found) == [("recorded step", True)]
    assert (rounds, compute) == (0, 0.0)
    assert found.details["close_enough"]
    assert "wanted" in found.status and "allow more" not in found.status


def test_without_summaries_it_is_a_step_that_was_checked() -> None:
    found, rounds, _, _ = removed(forget=ForgetSet.of_nodes(0), closeness=1e9)
    assert stages(found) == [("step", True)]
    (stage,) = found.details["plan"]
    assert stage["products"] == 8 and 0.0 <= stage["leverage"] <= 1.0 and "gain" in stage
    assert rounds == 1 + 8 + 1 + 1  # gradients, products, those of what leaves, the check


@pytest.mark.parametrize("record", [False, True])
def test_where_much_is_wanted_training_goes_on_from_a_checkpoint(record: bool) -> None:
    found, _, _, reported = removed(record, closeness=1e-6, rounds=5)
    assert [name for name, _ in stages(found)] == [
        "recorded step" if record else "step",
        "checkpoint",
    ]
    assert stages(found)[-1][1] and not stages(found)[0][1]
    last = found.details["plan"][-1]
    assert last["rounds"] == 5 and 0 < last["checkpoint"] < SETTINGS.rounds
    assert not found.details["close_enough"]
    assert "1e-06 are wanted: allow more rounds, or retrain" in found.status
    assert found.details["expected_floors"] > 1e-6
    assert found.claim is Claim.EMPIRICAL
    assert len(reported) == 5


def test_no_more_rounds_are_run_than_are_expected_to_do() -> None:
    few, *_ = removed(closeness=3.0, rounds=19)
    many, *_ = removed(closeness=0.2, rounds=19)
    rounds = [found.details["plan"][-1].get("rounds", 0) for found in (few, many)]
    assert rounds[0] < rounds[1] <= 19
    for found in (few, many):
        if found.details["close_enough"]:
            assert found.details["expected_floors"] <= found.details["wanted_floors"]


def test_a_budget_of_as_many_rounds_as_training_took_allows_for_retraining() -> None:
    found, *_ = removed(closeness=1e-6, rounds=SETTINGS.rounds)
    assert stages(found)[-1] == ("retraining", True)
    assert found.claim is Claim.EXACT_RETRAIN
    exact = Retrain().unlearn(trained(), federation(), FORGET)
    torch.testing.assert_close(found.weights, exact.weights)


def test_without_checkpoints_it_rewinds_and_without_a_start_it_takes_the_step() -> None:
    model = trained()
    bare = TrainedModel(model.weights, model.initial, SETTINGS)
    found = Auto(closeness=1e-6, rounds=3).unlearn(bare, federation(), FORGET)
    assert stages(found)[-1] == ("rewind", True)
    nowhere = TrainedModel(model.weights, None, SETTINGS)
    found = Auto(closeness=1e-6).unlearn(nowhere, federation(), FORGET)
    assert stages(found) == [("step", True)]
    assert not found.details["close_enough"]


def test_the_step_of_a_sequence_starts_from_everything_that_has_left() -> None:
    """From recorded summaries, two removals are one, checkpoints included."""
    nodes, method = federation(), Auto(record=True, closeness=1e9)
    first = method.unlearn(trained(True), nodes, ForgetSet.of_nodes(2))
    assert first.trained is not None
    assert any(isinstance(item, TrainingCheckpoints) for item in first.trained.recorded)
    second = method.unlearn(first.trained, nodes, ForgetSet.of_nodes(0))
    both = method.unlearn(trained(True), nodes, ForgetSet.of_nodes(0, 2))
    torch.testing.assert_close(second.weights, both.weights, rtol=1e-4, atol=1e-5)
    assert math.isclose(second.details["plan"][0]["share"], both.details["plan"][0]["share"])
