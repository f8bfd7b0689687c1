"""The shipped scenarios of removal without a round, on a part of their training."""

from __future__ import annotations

from typing import Any

import pytest

from fedunlearn.flower.simulation import TransportName
from fedunlearn.lab.run import run_scenario
from fedunlearn.progress import Silent
from fedunlearn.scenario.loading import load_scenario
from tests.tables import ROOT

NAME = "instant-cubic-newton"
SIMULATIONS = ROOT / "simulations"


def run(scenario: str, *overrides: str, transport: TransportName = "inline") -> dict[str, Any]:
    only = f'unlearning.methods=["{NAME}"]'
    loaded = load_scenario(SIMULATIONS / f"{scenario}.toml", [only, *overrides])
    measured = run_scenario(loaded, transport=transport, progress=Silent())
    request: dict[str, Any] = measured.results.model_dump(mode="json")["requests"][0]
    return request


@pytest.mark.parametrize(("count", "trusted"), [(1, True), (10, False)])
def test_nodes_of_many_leave_without_a_round(count: int, trusted: bool) -> None:
    request = run("instant_removal", f"forget.count={count}", "training.rounds=15")
    found, trained = request["methods"][NAME], request["trained"]
    assert (found["rounds"], found["bytes_up"], found["bytes_down"]) == (0, 0, 0)
    assert found["gradient_equivalents"] == 0.0
    assert found["recording"]["rounds"] == 3
    assert found["recording"]["gradient_equivalents"] > 100.0
    assert len(request["forget"]["nodes"]) == count
    assert found["details"]["validity"]["trusted"] is trusted
    assert found["status"].startswith("converged" if trusted else "do not trust the step alone")
    if trusted:
        assert found["forget_js"] < 1.5 * request["floor"]["forget_js"]
        assert found["forget_js"] < 0.8 * trained["forget_js"]
        assert found["tow"] > trained["tow"]


def test_records_are_told_by_their_owners_once() -> None:
    request = run("instant_records", "training.rounds=30")
    found = request["methods"][NAME]
    assert found["rounds"] == 1
    assert found["forget_js"] < request["floor"]["forget_js"]
    assert found["tow"] > 0.97


def test_a_class_of_a_node_leaves_without_a_round() -> None:
    which = ("forget.kind=class", "forget.class=commonest", "forget.nodes=largest")
    request = run("instant_records", *which, "training.rounds=30")
    found = request["methods"][NAME]
    assert found["rounds"] == 0
    assert request["forget"]["kind"] == "class"
    assert len(request["forget"]["nodes"]) == 1
    assert found["forget_js"] < 0.5 * request["trained"]["forget_js"]


def test_the_engine_records_and_removes_as_this_process_does() -> None:
    """Who leaves answers a question; recording goes the same way as any other round."""
    settings = (
        "data.nodes=4",
        "training.rounds=2",
        "evaluation.oracles=1",
        f"unlearning.{NAME}.policy=on-departure",
        f"unlearning.{NAME}.check=true",
    )
    engine, inline = (
        run("instant_removal", *settings, transport=transport) for transport in ("flower", "inline")
    )
    one, other = (request["methods"][NAME] for request in (engine, inline))
    assert one["update_norm"] == pytest.approx(other["update_norm"], rel=1e-4)
    assert one["rounds"] == other["rounds"] == 2
    for key in ("rounds", "bytes_up", "bytes_down", "gradient_equivalents"):
        assert one["recording"][key] == pytest.approx(other["recording"][key], rel=0.01)
