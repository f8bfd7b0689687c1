"""Removal from models whose training had hardly begun: no harm, and the status says so."""

from __future__ import annotations

from typing import Any

import pytest

from fedunlearn.lab.run import run_scenario
from fedunlearn.progress import Silent
from fedunlearn.scenario.loading import LoadedScenario, parse_scenario
from tests.tables import ROOT

NONE, FIXED, AUTO = "none-completed", "fixed", "cubic-newton"


def unconverged(
    nodes: int,
    rounds: int,
    *,
    model: str = "mlp",
    rate: float = 0.05,
    seed: int = 0,
    order: int = 1,
) -> dict[str, Any]:
    """Run a badly converged federation and return its entry of results.json."""
    table = {
        "data": {"name": "digits", "partition": "iid", "nodes": nodes, "seed": seed},
        "model": {"name": model},
        "training": {
            "rounds": rounds,
            "local-epochs": 2,
            "batch-size": 32,
            "learning-rate": 0.05,
            "learning-rate-decay": 0.98,
            "weight-decay": 1e-3,
            "seed": order,
        },
        "forget": {"kind": "node", "nodes": "largest"},
        "unlearning": {
            "methods": [AUTO, NONE, FIXED],
            NONE: {"method": AUTO, "completion": 0},
            FIXED: {"method": AUTO, "completion": 0.3},
        },
        "evaluation": {"oracles": 2},
    }
    loaded = LoadedScenario("unconverged", ROOT, parse_scenario(table))
    measured = run_scenario(loaded, transport="inline", progress=Silent())
    entry: dict[str, Any] = measured.results.model_dump(mode="json")["requests"][0]
    return entry


@pytest.mark.parametrize(
    "settings",
    [
        {"nodes": 10, "rounds": 6},
        {"nodes": 20, "rounds": 12},
        {"nodes": 10, "rounds": 20, "seed": 4, "order": 4},
        {"nodes": 10, "rounds": 6, "model": "logistic"},
        {"nodes": 5, "rounds": 6, "seed": 1},
    ],
    ids=str,
)
def test_what_leaves_is_predicted_no_better_and_as_a_retrained_model_does(
    settings: dict[str, Any],
) -> None:
    entry = unconverged(**settings)
    found, methods = entry["methods"][AUTO], entry["methods"]
    assert found["forget_accuracy"] <= entry["trained"]["forget_accuracy"]
    assert found["forget_js"] <= min(methods[NONE]["forget_js"], methods[FIXED]["forget_js"])
    assert found["forget_js"] < entry["trained"]["forget_js"]

    details = found["details"]
    assert details["completion"] == pytest.approx(1.0 / settings["nodes"], rel=0.02)
    assert details["training_ahead"] > 1.0 and details["undone_over_leaving"] > 1.0
    for name in (AUTO, NONE, FIXED):
        status = methods[name]["status"]
        assert "training had not converged, and what it left undone outweighs" in status
        assert "train further before the removal, add recovery rounds, or retrain" in status
        assert "nothing" not in status and not status.startswith("converged")
