"""What is measured beside accuracy and divergence, from scenario to results."""

from __future__ import annotations

import copy
import itertools
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fedunlearn.lab.comparison import compare_scenarios
from fedunlearn.lab.result_store import FolderStore
from fedunlearn.lab.run import run_scenario
from fedunlearn.progress import Silent
from fedunlearn.scenario.loading import LoadedScenario, parse_scenario

SMALL = (
    "training.rounds=4",
    "training.local-epochs=1",
    "data.nodes=4",
    "data.limit=400",
    "data.alpha=1",
    "evaluation.oracles=3",
    "unlearning.cubic-newton.products=3",
)
EVERYTHING = ("evaluation.replicas=2", "evaluation.relearn=true", "data.backdoor.target=0")
AUCS = {"mia_auc", "ulira_auc"}
SHARES = {"worst_node_accuracy", "node_accuracy_spread", "backdoor_success"}
KLOM = {"klom", "klom_retain", "klom_test"}
ALWAYS = AUCS | {"worst_node_accuracy", "node_accuracy_spread"}


def loaded(*overrides: str) -> LoadedScenario:
    return LoadedScenario("small", Path(), parse_scenario({}, [*SMALL, *overrides]))


@cache
def run(*overrides: str) -> dict[str, Any]:
    return run_scenario(
        loaded(*overrides), transport="inline", progress=Silent()
    ).results.model_dump(mode="json")


def models_of(request: dict[str, Any]) -> dict[str, dict[str, Any]]:
    of_methods = {
        f"{name} {when}".strip(): entry
        for name, method in request["methods"].items()
        for when, entry in (("", method), ("before", method.get("before_recovery")))
        if entry
    }
    return {"trained": request["trained"], "retrained": request["retrained"], **of_methods}


def test_all_is_measured_of_all_models_and_in_range() -> None:
    (request,) = run(*EVERYTHING, "unlearning.recovery-rounds=1")["requests"]
    assert request["shadow_oracles"] == 2
    assert request["klom_oracles"] == 3
    models = models_of(request)
    assert len(models) == 6
    for name, entry in models.items():
        wanted = ALWAYS | SHARES | {"relearn_epochs"}
        if name != "retrained":  # there are no oracles left to hold it against
            wanted |= KLOM | {"ulira_pair_auc"}
        assert wanted <= set(entry)
        assert all(0 <= entry[key] <= 1 for key in wanted - KLOM - {"relearn_epochs"})
        assert all(0 <= entry[key] <= 100 for key in wanted & KLOM)
        assert 0 <= entry["relearn_epochs"] <= 10
    assert request["trained"]["relearn_epochs"] == 0
    assert not (KLOM | {"ulira_pair_auc"}) & set(request["retrained"])


def test_only_what_costs_no_more_is_measured_unasked() -> None:
    (request,) = run()["requests"]
    assert request["shadow_oracles"] == 2
    assert "klom_oracles" not in request
    for entry in models_of(request).values():
        assert ALWAYS <= set(entry)
        assert not (KLOM | {"ulira_pair_auc", "relearn_epochs", "backdoor_success"}) & set(entry)


def test_two_oracles_are_too_few_for_shadows() -> None:
    (request,) = run("evaluation.oracles=2")["requests"]
    assert "shadow_oracles" not in request
    assert not any("ulira_auc" in entry for entry in models_of(request).values())


def test_enough_oracles_measure_the_retrained_model_too() -> None:
    (request,) = run("evaluation.replicas=2", "evaluation.oracles=6")["requests"]
    assert request["klom_oracles"] == 3
    retrained, trained = request["retrained"], request["trained"]
    assert KLOM <= set(retrained)
    assert retrained["klom"] < trained["klom"]


def test_what_is_asked_for_changes_nothing_else() -> None:
    (plain,), (asked,) = (run(*more)["requests"] for more in ((), ("evaluation.replicas=2",)))
    for name, entry in models_of(plain).items():
        other = models_of(asked)[name]
        assert all(other[key] == value for key, value in entry.items() if key != "seconds")


@pytest.mark.parametrize(
    "more", [(), ("forget.nodes=[0,1]", "forget.sequential=true")], ids=["one", "sequence"]
)
def test_comparisons_give_what_a_run_gives(tmp_path: Path, more: tuple[str, ...]) -> None:
    asked = (*EVERYTHING, *more)
    ((compared,),) = compare_scenarios(
        [loaded(*asked)], [0], store=FolderStore(tmp_path), processes=1, progress=Silent()
    )
    assert timeless(compared.model_dump(mode="json")) == timeless(run(*asked))


def timeless(document: dict[str, Any]) -> dict[str, Any]:
    document = copy.deepcopy(document)
    del document["environment"]
    for request in document["requests"]:
        for entry in itertools.chain(request["methods"].values(), [request["retrained"]]):
            del entry["seconds"]
            entry.pop("recording", None)
    return document
