"""The same work on Flower's simulation engine and in this process."""

from __future__ import annotations

import copy
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fedunlearn.errors import ForgetSetError, InputError
from fedunlearn.federation.federation import Federation
from fedunlearn.flower.simulation import TransportName, simulate
from fedunlearn.lab.run import run_scenario
from fedunlearn.progress import Silent
from fedunlearn.scenario.loading import LoadedScenario, parse_scenario
from tests.federations import TinyTask

SMALL = ["training.rounds=3", "evaluation.oracles=2", "data.nodes=4", "data.alpha=1"]


def run(transport: TransportName, *overrides: str) -> dict[str, Any]:
    settings = parse_scenario({}, [*SMALL, *overrides])
    loaded = LoadedScenario("small", Path(), settings)
    return run_scenario(loaded, transport=transport, progress=Silent()).results.model_dump(
        mode="json"
    )


def without_times(results: dict[str, Any]) -> dict[str, Any]:
    results = copy.deepcopy(results)
    del results["environment"]
    for request in results["requests"]:
        for entry in (request["retrained"], *request["methods"].values()):
            del entry["seconds"]
    return results


def test_engine_and_inline_give_the_same_results() -> None:
    assert without_times(run("flower")) == without_times(run("inline"))


def test_what_the_body_raises_comes_through_the_engine() -> None:
    def body(federation: Federation) -> None:
        raise ForgetSetError("as it was")

    with pytest.raises(ForgetSetError, match="as it was"):
        simulate(TinyTask(), 2, body, transport="flower")


def test_sigterm_stays_with_the_handler_of_the_process() -> None:
    """While Ray starts, and once it runs: a worker ends after the job at hand."""
    seen: list[float] = []

    def terminate() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def body(federation: Federation) -> int:
        while_starting = len(seen)
        terminate()
        deadline = time.monotonic() + 10.0
        while len(seen) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        return while_starting

    before = signal.signal(signal.SIGTERM, lambda *_: seen.append(time.monotonic()))
    early = threading.Timer(0.3, terminate)
    early.start()
    try:
        while_starting = simulate(TinyTask(), 2, body, transport="flower")
    finally:
        early.join()
        signal.signal(signal.SIGTERM, before)
    assert (while_starting, len(seen)) == (1, 2)


@pytest.mark.parametrize("kind", ["node", "samples", "class"])
def test_results_have_the_form_of_the_contract(kind: str) -> None:
    results = run("inline", f"forget.kind={kind}", "forget.class=3", "unlearning.recovery-rounds=1")
    assert set(results) >= {"fedunlearn", "scenario", "environment", "requests"}
    unlearning = results["scenario"]["unlearning"]
    assert unlearning["cubic-newton"]["linearise-at"] == 1.0
    assert unlearning["methods"] == ["cubic-newton", "fine-tune"]
    (request,) = results["requests"]
    assert request["forget"]["kind"] == kind
    assert set(request["floor"]) == {"forget_js", "retain_js", "test_js"}
    measures = {
        "forget_accuracy", "retain_accuracy", "test_accuracy", "forget_loss", "forget_js",
        "retain_js", "test_js", "tow", "mia_auc", "update_norm", "weight_distance",
    }  # fmt: skip
    costs = {"rounds", "bytes_up", "bytes_down", "gradient_equivalents", "seconds"}
    assert measures <= set(request["trained"])
    assert not costs & set(request["trained"])
    assert measures | costs <= set(request["retrained"])
    assert request["retrained"]["forget_js"] == pytest.approx(0, abs=1e-12)
    assert request["retrained"]["rounds"] == 3
    for entry in request["methods"].values():
        assert measures | costs | {"status", "claim", "before_recovery"} <= set(entry)
        assert measures <= set(entry["before_recovery"])
        assert all(type(entry[key]) in (int, float) for key in measures | costs)
        assert entry["curve"][-1]["rounds"] == entry["rounds"]
        assert entry["curve"][-1]["forget_js"] == pytest.approx(entry["forget_js"])
    newton, tuned = (request["methods"][name] for name in ("cubic-newton", "fine-tune"))
    spent, budget = tuned["gradient_equivalents"], newton["gradient_equivalents"]
    assert budget <= spent < budget + 2  # equal client compute, rounded up to whole rounds


def test_the_same_seed_gives_the_same_results() -> None:
    assert without_times(run("inline")) == without_times(run("inline"))
    assert without_times(run("inline")) != without_times(run("inline", "training.seed=2"))


@pytest.mark.parametrize(
    "overrides",
    [
        ("forget.nodes=[4]",),
        ("forget.kind=class", "forget.class=12"),
        ("forget.nodes=[0,1,2,3]",),
        ("model.name=resnet1"),
        ("model.name=fedunlearn.nowhere:net",),
        ("data.name=idx", "data.path=nowhere"),
        ("data.nodes=2000",),
        ("data.nodes=300", "data.alpha=0.01"),
    ],
    ids=str,
)
def test_impossible_scenarios_are_refused_before_the_first_round(
    overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a federation was opened")

    monkeypatch.setattr("fedunlearn.lab.run.simulate", never)
    with pytest.raises(InputError) as caught:
        run("inline", *([overrides] if isinstance(overrides, str) else overrides))
    assert "\n" not in str(caught.value)
