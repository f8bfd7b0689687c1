"""Exact and certified removals through the worker: claims in receipts, sums in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedunlearn.errors import RecordingError
from fedunlearn.federation.accounting import Meter
from fedunlearn.federation.trained_model import Recordable, TrainedModel
from fedunlearn.lab.experiment import Experiment
from fedunlearn.networks import build_model
from fedunlearn.operator.model_store import RECORDING, read_model
from fedunlearn.operator.worker_loop import MODELS
from fedunlearn.parameters import initial_weights
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.recording.head_storage import HEAD, open_head, save_head
from fedunlearn.requests.deletion import State
from fedunlearn.requests.receipts import verify_receipt
from fedunlearn.risk.linear_head import one_vs_rest_loss, squared_loss
from fedunlearn.scenario.loading import LoadedScenario, parse_scenario
from fedunlearn.service.state import open_state
from fedunlearn.settings import TrainingSettings
from fedunlearn.testing.federations import in_process
from fedunlearn.unlearning.certified_head import CertifiedHead
from fedunlearn.unlearning.exact_head import ExactHead
from fedunlearn.unlearning.method import UnlearningMethod
from tests import workplaces
from tests.linear_heads import LinearPoints

RIDGE = {"solver": "ridge"}
NOISE = {"solver": "one-vs-rest", "perturbation": 20.0, "weight-decay": 0.1}
CASES: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "ridge": ("logistic", "exact-head", RIDGE, "EXACT"),
    "logistic": ("logistic", "exact-head", {"solver": "logistic"}, "EXACT"),
    "certified": ("unit-logistic", "certified-head", NOISE, "CERTIFIED"),
}


def scenario(model: str, method: str, training: dict[str, Any]) -> LoadedScenario:
    table: dict[str, Any] = {
        "data": {"name": "digits", "nodes": 3, "limit": 120, "partition": "iid"},
        "model": {"name": model},
        "training": training,
        "unlearning": {"methods": [method]},
    }
    return LoadedScenario("heads", Path.cwd(), parse_scenario(table))


@pytest.mark.parametrize("case", CASES)
def test_the_claim_and_its_figures_are_in_the_receipt(case: str, tmp_path: Path) -> None:
    model, method, training, claim = CASES[case]
    loaded = scenario(model, method, training)
    workplaces.prepare(tmp_path / "state", loaded)
    experiment = Experiment.prepare(loaded)
    network = build_model(experiment.task.model)
    with open_state(tmp_path / "state") as state:
        gone: list[ForgetSet] = []
        for kind, rule in (
            ("samples", ForgetSet.of_records({1: [3, 5, 8]})),
            ("class", ForgetSet.of_class(7, on=[1])),
        ):
            filed = workplaces.file(state, workplaces.scope(state.folder, kind))
            (worked,) = workplaces.work(state, loaded)
            assert worked.state is State.SUCCEEDED
            text = state.store.receipt(filed.id)
            assert text is not None
            predicate = verify_receipt(text, state.issuer.public).predicate
            assert predicate["claim"] == claim and predicate["method"] == method
            figure = "relative error at most" if claim == "EXACT" else "epsilon 1, delta 0.0001"
            assert figure in predicate["status"]
            gone.append(rule)
        file = state.folder / MODELS / f"{worked.model}.safetensors"
        found = read_model(network, file.read_bytes())
        assert predicate["rounds"] <= 20
    if claim == "EXACT":
        with in_process(experiment.task, 3) as federation:
            oracle = federation.fit(
                initial_weights(experiment.task.model, 0),
                loaded.settings.training,
                without=gone[1].following(gone[:1]),
            ).weights
        assert float((found - oracle).norm() / oracle.norm()) <= 1e-6


def recorded(method: UnlearningMethod[Any]) -> tuple[TrainedModel, Recordable]:
    exact = isinstance(method, ExactHead)
    task = LinearPoints(squared_loss if exact else one_vs_rest_loss)
    training = TrainingSettings(
        solver="ridge" if exact else "one-vs-rest",
        perturbation=0.0 if exact else 50.0,
        weight_decay=1.0,
    )
    with in_process(task, 4) as federation:
        trained = federation.fit(
            initial_weights(task.model, 0), training, record=method.to_record()
        )
        after = method.unlearn(trained, federation, ForgetSet.of_records({1: [0, 2]})).trained
    assert after is not None
    return after, method.to_record()[0]


@pytest.mark.parametrize("method", [ExactHead(), ExactHead(policy="on-departure"), CertifiedHead()])
def test_a_recording_survives_its_file(method: UnlearningMethod[Any], tmp_path: Path) -> None:
    trained, recordable = recorded(method)
    saved = trained.recorded[recordable].value
    save_head(saved, tmp_path)
    opened = open_head(tmp_path)
    assert type(opened) is type(saved) and opened.model == saved.model and opened.gone == saved.gone
    task = LinearPoints(squared_loss if isinstance(method, ExactHead) else one_vs_rest_loss)
    weights = []
    for value in (saved, opened):
        recordings = {**trained.recorded}
        recordings[recordable] = type(recordings[recordable])(value, Meter().stopped())
        again = TrainedModel(trained.weights, trained.initial, trained.settings, recordings)
        with in_process(task, 4) as federation:
            weights.append(method.unlearn(again, federation, ForgetSet.of_nodes(0)).weights)
    if isinstance(method, ExactHead):
        assert torch.equal(*weights)
    else:
        assert np.array_equal(opened.perturbation, saved.perturbation)  # type: ignore[union-attr]


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    trained, recordable = recorded(ExactHead())
    save_head(trained.recorded[recordable].value, tmp_path)
    whole = (tmp_path / HEAD).read_bytes()
    generator = np.random.default_rng(0)
    for place in [*generator.integers(8, len(whole), 60), len(whole) - 1]:
        changed = bytearray(whole)
        changed[place] ^= 1
        (tmp_path / HEAD).write_bytes(changed)
        with pytest.raises(RecordingError) as caught:
            open_head(tmp_path)
        assert "\n" not in str(caught.value)
    (tmp_path / HEAD).write_bytes(whole[:-9])
    with pytest.raises(RecordingError, match="cut short"):
        open_head(tmp_path)
    (tmp_path / HEAD).unlink()
    with pytest.raises(RecordingError, match=HEAD):
        open_head(tmp_path)


def test_the_sums_lie_beside_the_model(tmp_path: Path) -> None:
    model, method, training, _ = CASES["ridge"]
    loaded = scenario(model, method, training)
    workplaces.prepare(tmp_path / "state", loaded)
    found = list((tmp_path / "state" / MODELS).rglob(f"{RECORDING}/{HEAD}"))
    assert len(found) == 1 and found[0].stat().st_mode & 0o077 == 0
