"""A method that diverges is a result with a status; the others of a comparison go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedunlearn.lab.run import run_scenario
from fedunlearn.progress import Silent
from fedunlearn.scenario.loading import LoadedScenario, parse_scenario

SMALL = (
    *("training.rounds=4", "data.nodes=4", "data.limit=400", "data.alpha=1"),
    *("evaluation.oracles=1", "unlearning.cubic-newton.products=3"),
    *("unlearning.fine-tune.rounds=2", "unlearning.fine-tune.learning-rate=1e30"),
)


def run(*overrides: str) -> list[dict[str, Any]]:
    loaded = LoadedScenario("small", Path(), parse_scenario({}, [*SMALL, *overrides]))
    results = run_scenario(loaded, transport="inline", progress=Silent()).results.model_dump(
        mode="json"
    )
    requests: list[dict[str, Any]] = results["requests"]
    return requests


@pytest.mark.parametrize("recovery", [0, 1])
@pytest.mark.parametrize("first", ["cubic-newton", "fine-tune"])
def test_a_method_that_diverges_leaves_the_model_as_it_was(recovery: int, first: str) -> None:
    order = sorted(["cubic-newton", "fine-tune"], key=lambda name: name != first)
    (request,) = run(f"unlearning.methods={order}", f"unlearning.recovery-rounds={recovery}")
    wild, sane = request["methods"]["fine-tune"], request["methods"]["cubic-newton"]
    assert wild["status"].startswith("diverged, the model is left as it was: node ")
    assert "lower the learning rate" in wild["status"]
    for key in ("forget_js", "forget_accuracy", "tow"):
        assert wild[key] == request["trained"][key]
    assert wild["update_norm"] == 0.0 and wild["rounds"] >= 1
    assert "before_recovery" not in wild
    assert [point["rounds"] for point in wild["curve"]] == [0]
    assert "diverged" not in sane["status"] and sane["update_norm"] > 0.0


def test_a_sequence_goes_on_from_the_model_that_was_left() -> None:
    requests = run("forget.nodes=[0,1]", "forget.sequential=true")
    assert len(requests) == 2
    for request in requests:
        assert request["methods"]["fine-tune"]["update_norm"] == 0.0
        assert request["methods"]["cubic-newton"]["update_norm"] > 0.0
