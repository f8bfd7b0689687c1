"""Results by content: what changes a result changes its key, and nothing else does."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fedunlearn.federation.accounting import Cost
from fedunlearn.lab.comparison import SEEDS_APART, with_seed
from fedunlearn.lab.experiment import Experiment
from fedunlearn.lab.result_keys import model_key, outcomes_key
from fedunlearn.lab.result_store import FolderStore
from fedunlearn.lab.stages import FittedModel, RequestOutcome
from fedunlearn.lab.tuning import grid_points
from fedunlearn.scenario.loading import LoadedScenario, parse_scenario
from fedunlearn.unlearning.registry import make_method, method_names
from tests.comparisons import document, results_of

pytestmark = pytest.mark.slow

COST = Cost(rounds=3, bytes_up=10, bytes_down=20, gradient_equivalents=1.5, seconds=0.1)
BASE = ("data.alpha=1", "data.nodes=4")


def experiment(*overrides: str) -> Experiment:
    return Experiment.prepare(LoadedScenario("x", Path(), parse_scenario({}, [*BASE, *overrides])))


CHANGES_MODELS = (
    *("data.seed=1", "data.nodes=5", "data.alpha=2", "data.limit=1000", "model.name=logistic"),
    *("training.rounds=5", "training.weight-decay=0.1", "training.batch-size=16"),
)
CHANGES_OUTCOMES = (
    *CHANGES_MODELS,
    *("forget.nodes=[2]", "forget.kind=samples", "unlearning.recovery-rounds=1"),
    *("unlearning.cubic-newton.products=4", "forget.nodes=largest forget.count=2"),
)
CHANGES_NEITHER = (
    *("evaluation.oracles=2", 'unlearning.methods=["cubic-newton","rewind"]'),
    "unlearning.fine-tune.rounds=3",
)


@pytest.mark.parametrize("change", CHANGES_MODELS)
def test_what_a_model_depends_on_is_in_its_key(change: str) -> None:
    assert model_key(experiment(change), 1, None) != model_key(experiment(), 1, None)


@pytest.mark.parametrize("change", CHANGES_OUTCOMES)
def test_what_an_outcome_depends_on_is_in_its_key(change: str) -> None:
    changed = experiment(*change.split())
    name = "cubic-newton"
    assert outcomes_key(changed, 1, name, None) != outcomes_key(experiment(), 1, name, None)


@pytest.mark.parametrize("change", CHANGES_NEITHER)
def test_nothing_else_is(change: str) -> None:
    changed, same = experiment(change), experiment()
    assert model_key(changed, 1, None) == model_key(same, 1, None)
    name = "cubic-newton"
    assert outcomes_key(changed, 1, name, None) == outcomes_key(same, 1, name, None)


def test_seeds_requests_and_budgets_have_keys_of_their_own() -> None:
    one = experiment("forget.count=2", "forget.sequential=true")
    keys = [
        *(model_key(one, seed, forget) for seed in (1, 2) for forget in (None, *one.requests)),
        *(
            outcomes_key(one, seed, name, budgets)
            for seed, name, budgets in itertools.product(
                (1, 2), ("cubic-newton", "fine-tune"), (None, (1.0, 2.0), (2.0, 2.0))
            )
        ),
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("recovered", [False, True])
def test_outcomes_come_back_as_they_were(tmp_path: Path, recovered: bool) -> None:
    store = FolderStore(tmp_path / "made" / "here")
    before = torch.arange(5.0, dtype=torch.float64) if recovered else None
    outcome = RequestOutcome(
        weights=torch.randn(5),
        before_recovery=before,
        status="done",
        claim="EMPIRICAL",
        details={"rounds": 3, "gain": 0.5, "candidates": [{"weight": 0.1}]},
        cost=COST,
        compute=1.25,
        recording=COST if recovered else None,
        path=((0, torch.rand(3, 2)), (4, torch.rand(3, 2))),
    )
    assert store.outcomes("key") is None
    store.save_outcomes("key", [outcome, outcome])
    found = store.outcomes("key")
    assert found is not None and len(found) == 2
    for one in found:
        assert torch.equal(one.weights, outcome.weights)
        assert (one.before_recovery is None) == (before is None)
        for part in ("status", "claim", "details", "cost", "compute", "recording"):
            assert getattr(one, part) == getattr(outcome, part)
        for (rounds, shown), (wanted, same) in zip(one.path, outcome.path, strict=True):
            assert rounds == wanted and torch.equal(shown, same)
    assert [path.name for path in store.folder.iterdir()] == ["key.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_comes_back_as_it_was(tmp_path: Path, dtype: torch.dtype) -> None:
    store = FolderStore(tmp_path)
    model = FittedModel(torch.randn(4, dtype=dtype), COST)
    store.save_model("key", model)
    found = store.model("key")
    assert found is not None
    assert torch.equal(found.weights, model.weights) and found.weights.dtype == dtype
    assert found.cost == model.cost


def test_results_come_back_as_they_were_and_damaged_ones_count_as_missing(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    results = results_of(document(0))
    assert store.results("key") is None
    store.save_results("key", results)
    assert store.results("key") == results
    path = tmp_path / "key.json"
    path.write_text(path.read_text()[:200])
    assert store.results("key") is None


@pytest.mark.parametrize("how", ["empty", "torn", "other"])
def test_a_file_that_cannot_be_read_counts_as_not_there(tmp_path: Path, how: str) -> None:
    store = FolderStore(tmp_path)
    store.save_model("key", FittedModel(torch.randn(100), COST))
    path = tmp_path / "key.safetensors"
    whole = path.read_bytes()
    if how == "other":
        save_file({"weights": torch.zeros(2)}, path)
    else:
        path.write_bytes(b"" if how == "empty" else whole[: len(whole) // 2])
    assert store.model("key") is None
    store.save_model("key", FittedModel(torch.randn(3), COST))
    assert store.model("key") is not None


def test_runs_share_no_seed() -> None:
    loaded = LoadedScenario("x", Path(), parse_scenario({}))
    runs = [with_seed(loaded, number).settings for number in range(3)]
    assert [run.data.seed for run in runs] == [0, 1, 2]
    assert [run.forget.seed for run in runs] == [0, 1, 2]
    assert [run.training.seed for run in runs] == [1, 1 + SEEDS_APART, 1 + 2 * SEEDS_APART]
    assert runs[0] == loaded.settings


@pytest.mark.parametrize("name", method_names())
@pytest.mark.parametrize("trials", [1, 3, 100])
def test_grids_hold_settings_that_methods_take(name: str, trials: int) -> None:
    method = make_method(name, {})
    points = grid_points(method, trials)
    assert 1 <= len(points) <= trials
    assert len({str(point) for point in points}) == len(points)
    for point in points:
        made: Any = make_method(name, point).settings.model_dump(by_alias=True)
        assert {key: made[key] for key in point} == point
    defaults: Any = method.settings.model_dump(by_alias=True)
    assert {key: defaults[key] for key in method.grid} in points  # tried, however few trials


def test_no_method_is_starved_of_trials() -> None:
    sizes = {
        name: len(grid_points(make_method(name, {}), 100))
        for name in method_names()
        # Retraining and the heads have nothing to tune, and auto chooses by itself.
        if name not in {"retrain", "auto", "exact-head", "certified-head"}
    }
    assert set(sizes.values()) == {8}
