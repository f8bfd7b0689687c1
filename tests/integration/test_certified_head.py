"""Certified removal: the accountant against the inequality of its theorem, and its refusals."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from fedunlearn.errors import FedunlearnError, InputError, NotRecordedError
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.parameters import initial_weights
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.recording.head_recording import CertifiedRecording
from fedunlearn.risk.linear_head import one_vs_rest_loss, squared_loss
from fedunlearn.settings import TrainingSettings
from fedunlearn.testing.federations import in_process
from fedunlearn.unlearning.certified_head import (
    CertifiedHead,
    CertifiedHeadSettings,
    gradient_bound,
    worst_case_bound,
)
from fedunlearn.unlearning.method import Claim, Unlearned
from tests.linear_heads import CLASSES, LinearPoints

FloatArray = NDArray[np.float64]

NODES = 6
TRAINING = TrainingSettings(
    solver="one-vs-rest", weight_decay=0.05, perturbation=40.0, perturbation_seed=0
)
FORGET_SETS = (
    ForgetSet.of_records({0: [1], 3: [0]}),
    ForgetSet.of_records({5: [2, 7, 9]}),
    ForgetSet.of_class(1, on=[1]),
    ForgetSet.of_nodes(2),
    ForgetSet.of_class(0),
)


def residual(
    task: LinearPoints, gone: list[ForgetSet], weights: FloatArray, b: FloatArray, decay: float
) -> float:
    """|grad L_b(W; D')| in float64, from the definition of the loss alone."""
    total = torch.tensor(0.0, dtype=torch.float64)
    at = torch.from_numpy(weights).requires_grad_()
    count = 0
    for node in range(NODES):
        rows, _ = task.features(node)
        labels = task.data(node)[1]
        stays = torch.ones(len(labels), dtype=torch.bool)
        for forget in gone:
            stays &= ~forget.forgotten(node, labels)
        signs = 2.0 * nn.functional.one_hot(labels[stays], CLASSES).double() - 1.0
        total = total - nn.functional.logsigmoid(signs * (rows[stays].detach() @ at.T)).sum()
        count += int(stays.sum())
    total = total + decay * count / 2 * at.square().sum() + (torch.from_numpy(b) * at).sum()
    (gradient,) = torch.autograd.grad(total, at)
    return float(gradient.norm())


def recording_of(method: CertifiedHead, trained: TrainedModel) -> CertifiedRecording:
    (recordable,) = method.to_record()
    found = trained.recorded[recordable].value
    assert isinstance(found, CertifiedRecording)
    return found


def after(unlearned: Unlearned) -> TrainedModel:
    assert unlearned.trained is not None
    return unlearned.trained


@settings(max_examples=20, deadline=None)
@given(
    order=st.permutations(range(len(FORGET_SETS))),
    decay=st.sampled_from([1e-3, 1e-2, 0.1, 1.0]),
    sigma=st.sampled_from([0.1, 1.0, 10.0]),
    seed=st.integers(0, 50),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_what_is_left_of_the_gradient_is_within_the_bound(
    order: list[int], decay: float, sigma: float, seed: int, dtype: torch.dtype
) -> None:
    task = LinearPoints(one_vs_rest_loss, dtype=dtype)
    # A step whose bound exceeds the budget is retrained; a large noise claims all of these.
    training = TRAINING.model_copy(
        update={"weight_decay": decay, "perturbation": sigma, "perturbation_seed": seed}
    )
    method = CertifiedHead(delta=1e-4)
    gone: list[ForgetSet] = []
    with in_process(task, NODES) as federation:
        initial = initial_weights(task.model, 0)
        trained = federation.fit(initial, training, record=method.to_record())
        first = recording_of(method, trained)
        left = residual(task, [], first.weights, first.perturbation, decay)
        assert left <= first.spent + 1e-9
        for index in order:
            forget = FORGET_SETS[index]
            unlearned = method.unlearn(trained, federation, forget)
            gone.append(forget)
            trained = after(unlearned)
            model = trained.weights.double().numpy().reshape(CLASSES, -1)
            recording = recording_of(method, trained)
            left = residual(task, gone, model, recording.perturbation, decay)
            details = unlearned.details
            if unlearned.claim is Claim.CERTIFIED:
                assert (
                    left
                    <= details["gradient_bound"] * (1 + 1e-9)
                    + details["gradient_bounds_so_far"]
                    - recording.spent
                    + 1e-9
                )
                assert left <= details["gradient_bounds_so_far"] + 1e-9
                assert details["gradient_bounds_so_far"] <= details["budget"]
            else:
                assert unlearned.claim is Claim.EXACT_RETRAIN
                assert "retrained" in unlearned.status


def test_the_bound_is_not_empty_and_below_the_worst_case() -> None:
    task = LinearPoints(one_vs_rest_loss)
    method = CertifiedHead()
    forget = ForgetSet.of_records({0: [1]})
    training = replace_settings(weight_decay=0.3, perturbation=5.0)
    with in_process(task, NODES) as federation:
        trained = federation.fit(
            initial_weights(task.model, 0), training, record=method.to_record()
        )
        unlearned = method.unlearn(trained, federation, forget)
    recording = recording_of(method, after(unlearned))
    left = residual(task, [forget], recording.weights, recording.perturbation, 0.3)
    retained = sum(len(task.data(node)[1]) for node in range(NODES)) - 1
    bound = unlearned.details["gradient_bound"]
    details = dict(unlearned.details)
    assert json.loads(json.dumps(details, allow_nan=False)) == details
    assert 0.0 < left <= bound <= worst_case_bound(1, retained, 0.3, CLASSES)
    unchanged = residual(
        task, [forget], recording_of(method, trained).weights, recording.perturbation, 0.3
    )
    assert left < 0.01 * unchanged  # the step removes it


def replace_settings(**changes: object) -> TrainingSettings:
    return TRAINING.model_copy(update=changes)


@pytest.mark.parametrize("epsilon", [0.1, 1.0])
@pytest.mark.parametrize("delta", [1e-6, 1e-2])
def test_the_budget_is_that_of_theorem_3(epsilon: float, delta: float) -> None:
    settings_of = CertifiedHeadSettings(epsilon=epsilon, delta=delta)
    c = math.sqrt(2 * math.log(1.5 / delta))
    # b ~ N(0, (c epsilon' / epsilon)^2) certifies a gradient of epsilon', with delta 1.5 e^(-c^2/2)
    assert settings_of.budget(c * 0.7 / epsilon) == pytest.approx(0.7)
    assert 1.5 * math.exp(-c * c / 2) == pytest.approx(delta)


def test_the_bound_is_corollary_2() -> None:
    generator = np.random.default_rng(0)
    x, step = generator.standard_normal((20, 4)), generator.standard_normal((2, 4))
    each = [np.linalg.norm(x, 2) * np.linalg.norm(s) * np.linalg.norm(x @ s) / 4 for s in step]
    assert gradient_bound(x.T @ x, step) == pytest.approx(np.linalg.norm(each))


def test_the_bounds_add_up_and_then_training_begins_anew() -> None:
    task = LinearPoints(one_vs_rest_loss)
    method, claims, spent = CertifiedHead(epsilon=0.5), list[Claim](), list[float]()
    training = replace_settings(weight_decay=0.3, perturbation=0.3)
    gone: list[ForgetSet] = []
    with in_process(task, NODES) as federation:
        trained = federation.fit(
            initial_weights(task.model, 0), training, record=method.to_record()
        )
        first = recording_of(method, trained).perturbation
        for place in range(20):
            forget = ForgetSet.of_records({4: [place], 5: [place]})
            unlearned = method.unlearn(trained, federation, forget)
            trained = after(unlearned)
            gone.append(forget)
            claims.append(unlearned.claim)
            recording = recording_of(method, trained)
            spent.append(recording.spent)
            if unlearned.claim is Claim.EXACT_RETRAIN:
                assert recording.draws == 1
                left = residual(task, gone, recording.weights, recording.perturbation, 0.3)
                assert left < 1e-9 and not np.array_equal(recording.perturbation, first)
                break
    assert claims[-1] is Claim.EXACT_RETRAIN and claims[0] is Claim.CERTIFIED
    assert spent[:-1] == sorted(spent[:-1]) and spent[-1] < spent[0]
    assert recording.gone and after(unlearned).settings == training


def test_a_spent_budget_may_be_refused() -> None:
    task = LinearPoints(one_vs_rest_loss)
    method = CertifiedHead(exhausted="refuse")
    training = replace_settings(perturbation=0.01)
    with in_process(task, NODES) as federation:
        trained = federation.fit(
            initial_weights(task.model, 0), training, record=method.to_record()
        )
        with pytest.raises(InputError, match=r"the noise hides .*; retrain") as caught:
            method.unlearn(trained, federation, ForgetSet.of_nodes(3))
    assert "\n" not in str(caught.value)


def test_noise_is_not_repeated_unless_it_has_a_seed() -> None:
    task = LinearPoints(one_vs_rest_loss)
    unknown = replace_settings(perturbation_seed=None)
    initial = initial_weights(task.model, 0)
    with in_process(task, NODES) as federation:
        same = [federation.fit(initial, TRAINING).weights for _ in range(2)]
        drawn = [federation.fit(initial, unknown).weights for _ in range(2)]
        other = federation.fit(initial, TRAINING, seed=7).weights
        method = CertifiedHead()
        trained = federation.fit(initial, unknown, record=method.to_record())
        status = method.unlearn(trained, federation, FORGET_SETS[0]).status
        seeded = federation.fit(initial, TRAINING, record=method.to_record())
        says = method.unlearn(seeded, federation, FORGET_SETS[0]).status
    assert torch.equal(*same) and not torch.equal(*drawn) and not torch.equal(same[0], other)
    assert status.startswith("certified: epsilon 1, delta 0.0001") and "seed" not in status
    assert "holds only where that is not known" in says


class Long(LinearPoints):
    """Inputs of the head that are longer than 1."""

    def model(self) -> nn.Module:
        model = super().model()
        assert isinstance(model, nn.Sequential)
        return nn.Sequential(model[0][:2], model[1])


def doubled(outputs: Tensor, targets: Tensor) -> Tensor:
    return 2.0 * one_vs_rest_loss(outputs, targets)


@pytest.mark.parametrize(
    ("task", "training", "says"),
    [
        (LinearPoints(squared_loss), TrainingSettings(solver="ridge"), "L2-regularised logistic"),
        (
            LinearPoints(nn.functional.cross_entropy),
            TrainingSettings(solver="logistic"),
            "L2-regularised logistic",
        ),
        (LinearPoints(one_vs_rest_loss), replace_settings(perturbation=0.0), "had no noise"),
        (Long(one_vs_rest_loss), TRAINING, "longer than 1"),
        (LinearPoints(one_vs_rest_loss, bias=True), TRAINING, "longer than 1"),
        (LinearPoints(doubled), TRAINING, "needs at most 1"),
        (LinearPoints(nn.functional.cross_entropy), TRAINING, "multiple of the one-vs-rest loss"),
        (LinearPoints(nn.functional.cross_entropy), TrainingSettings(rounds=1), "L2-regularised"),
    ],
    ids=["ridge", "softmax", "no noise", "long", "bias", "twice the loss", "other loss", "network"],
)
def test_assumptions_are_checked(task: LinearPoints, training: TrainingSettings, says: str) -> None:
    method = CertifiedHead()
    with in_process(task, 3) as federation, pytest.raises(FedunlearnError, match=says) as caught:
        federation.fit(initial_weights(task.model, 0), training, record=method.to_record())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"epsilon": 2.0}, {"epsilon": 0}, {"delta": 1}, {"delta": 0}])
def test_epsilon_and_delta_have_bounds(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="certified-head: "):
        CertifiedHead(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"solver": "ridge", "perturbation": 1.0},
        {"solver": "averaging", "perturbation": 1.0},
        {"solver": "logistic", "weight_decay": 0.0},
        {"solver": "one-vs-rest", "weight_decay": 0.0},
    ],
)
def test_settings_of_training_fit_together(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"perturbation: is for|weight-decay: must be greater"):
        TrainingSettings(**wrong)


def test_a_model_without_its_noise_is_refused() -> None:
    task, method = LinearPoints(one_vs_rest_loss), CertifiedHead()
    with in_process(task, 3) as federation:
        trained = federation.fit(
            initial_weights(task.model, 0), TRAINING, record=method.to_record()
        )
        again = federation.record(replace(trained, recorded={}), method.to_record())
        for one, other in zip(
            vars(recording_of(method, again)).values(),
            vars(recording_of(method, trained)).values(),
            strict=True,
        ):
            assert np.array_equal(one, other)  # the seed gives the noise again
        another = replace(trained, recorded={}, weights=trained.weights + 1)
        with pytest.raises(NotRecordedError, match="is not the minimiser"):
            federation.record(another, method.to_record())
        unknown = replace(trained, recorded={}, settings=replace_settings(perturbation_seed=None))
        unknown = federation.record(unknown, method.to_record())
        anew = method.unlearn(unknown, federation, ForgetSet.of_nodes(1))
        assert anew.claim is Claim.EXACT_RETRAIN and "was not stored" in anew.status
        later = method.unlearn(after(anew), federation, ForgetSet.of_records({0: [1]}))
        assert recording_of(method, after(later)).draws >= 1
        with pytest.raises(InputError, match="was not stored with the model; retrain"):
            CertifiedHead(exhausted="refuse").unlearn(unknown, federation, ForgetSet.of_nodes(1))
        moved = replace(trained, weights=trained.weights + 1)
        with pytest.raises(NotRecordedError, match="another model"):
            method.unlearn(moved, federation, ForgetSet.of_nodes(1))
