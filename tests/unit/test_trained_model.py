"""A model that was trained elsewhere: what is given for it fits, or is refused by name."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fedunlearn import (
    CubicNewton,
    FedEraser,
    FineTune,
    ForgetSet,
    Retrain,
    Rewind,
    TrainedModel,
    TrainingSettings,
    flatten,
    flatten_state,
    load,
    simulate,
)
from fedunlearn.errors import FedunlearnError, InputError, TaskError
from fedunlearn.federation.federation import Federation
from tests.federations import TinyTask, weights_of

SETTINGS = TrainingSettings(rounds=2, learning_rate=0.1)
TASK = TinyTask()
WEIGHTS = weights_of(TASK)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: TrainedModel(WEIGHTS), "settings are missing; say how it was trained: settings="),
        (lambda: TrainedModel(WEIGHTS, WEIGHTS), "settings are missing"),
        (
            lambda: TrainedModel(TASK.model().state_dict(), settings=SETTINGS),  # type: ignore[arg-type]
            "weights is a state_dict; give fedunlearn.flatten_state.model, state.",
        ),
        (
            lambda: TrainedModel(WEIGHTS, TASK.model().state_dict(), SETTINGS),  # type: ignore[arg-type]
            "initial is a state_dict",
        ),
        (lambda: TrainedModel(TASK.model(), None, SETTINGS), "weights is Sequential; give flatten"),  # type: ignore[arg-type]
        (
            lambda: TrainedModel(WEIGHTS.numpy(), None, SETTINGS),  # type: ignore[arg-type]
            "weights is ndarray; give a torch.Tensor",
        ),
        (lambda: TrainedModel(WEIGHTS[None], None, SETTINGS), r"shape \(1, 33\).*one vector"),
        (lambda: TrainedModel(WEIGHTS.long(), None, SETTINGS), "torch.int64; give one vector"),
        (
            lambda: TrainedModel(WEIGHTS, WEIGHTS[:-1], SETTINGS),
            "initial has 32 numbers, weights 33",
        ),
    ],
)
def test_what_is_no_model_is_refused(make: Callable[[], TrainedModel], says: str) -> None:
    with pytest.raises(InputError, match=says) as refusal:
        make()
    assert "\n" not in str(refusal.value)


def _unlearned(trained: TrainedModel, method: object) -> Tensor:
    def body(federation: Federation) -> Tensor:
        result: Tensor = method.unlearn(trained, federation, ForgetSet.of_nodes(1)).weights  # type: ignore[attr-defined]
        return result

    return simulate(TASK, 3, body)


@pytest.mark.parametrize("method", [CubicNewton(linearise_at=1.0), FineTune(rounds=1)])
def test_initial_weights_are_not_needed_where_they_are_not_used(method: object) -> None:
    without = TrainedModel(WEIGHTS + 0.3, settings=SETTINGS)
    having = TrainedModel(WEIGHTS + 0.3, WEIGHTS, SETTINGS)
    assert torch.equal(_unlearned(without, method), _unlearned(having, method))


@pytest.mark.parametrize("method", [CubicNewton(linearise_at=0.85), Rewind(rounds=1), Retrain()])
def test_where_they_are_needed_the_message_says_what_does_without(method: object) -> None:
    with pytest.raises(InputError, match=r"has no initial weights.*initial=.*linearise-at = 1"):
        _unlearned(TrainedModel(WEIGHTS, settings=SETTINGS), method)


def test_a_history_is_asked_for_before_initial_weights() -> None:
    with pytest.raises(InputError, match="training recorded no"):
        _unlearned(TrainedModel(WEIGHTS, settings=SETTINGS), FedEraser())


@pytest.mark.parametrize("count", [0, 1, 32, 34])
@pytest.mark.parametrize("method", [CubicNewton(linearise_at=1.0), FineTune(rounds=1)])
def test_weights_of_another_model_are_refused(method: object, count: int) -> None:
    trained = TrainedModel(torch.zeros(count, dtype=torch.float64), settings=SETTINGS)
    with pytest.raises(TaskError, match=f"{count}.*33 trainable|33 trainable.*{count}"):
        _unlearned(trained, method)
    with pytest.raises(TaskError, match="33 trainable parameters; give weights of this model"):
        load(TASK.model(), trained.weights)


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 3)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.norm = nn.BatchNorm1d(3)
        self.two = nn.Linear(3, 3)
        self.two.weight = self.one.weight


@pytest.mark.parametrize("make", [TASK.model, _Tied])
def test_a_state_dict_is_taken_by_names_in_any_order(make: Callable[[], nn.Module]) -> None:
    model = make()
    state = model.state_dict()
    turned = OrderedDict(reversed(state.items()))
    assert torch.equal(flatten_state(make(), state), flatten(model))
    assert torch.equal(flatten_state(make(), turned), flatten(model))
    if isinstance(model, _Tied):
        del turned["one.weight"]  # it is there under its other name
        assert torch.equal(flatten_state(make(), turned), flatten(model))


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (nn.Sequential(nn.Linear(2, 5), nn.Tanh()), "has no tensor '2.weight'"),
        (
            nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)),
            r"'0.weight' has shape \(4, 2",
        ),
        (
            nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 3), nn.Linear(3, 3)),
            "holds '3.weight', which the model does not have",
        ),
        (nn.DataParallel(TASK.model()), "has no tensor '0.weight'"),
    ],
)
def test_a_state_dict_of_another_model_is_refused_by_its_first_tensor(
    other: nn.Module, says: str
) -> None:
    with pytest.raises(FedunlearnError, match=says):
        flatten_state(TASK.model(), other.state_dict())


@pytest.mark.parametrize(
    ("initial", "says"),
    [
        (TASK.model().state_dict(), "initial is a state_dict; give fedunlearn.flatten_state"),
        (TASK.model(), "initial is Sequential; give flatten"),
        (WEIGHTS[:-1], "32 numbers.*33 trainable parameters"),
    ],
)
def test_training_starts_from_weights_of_this_model(initial: Tensor, says: str) -> None:
    with pytest.raises(InputError, match=says):
        simulate(TASK, 3, lambda federation: federation.fit(initial, SETTINGS))
