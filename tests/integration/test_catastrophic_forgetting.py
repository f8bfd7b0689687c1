"""The shipped scenario: the pseudo-inverse destroys the model, the cubic step does not."""

from __future__ import annotations

import pytest

from fedunlearn.lab.run import run_scenario
from fedunlearn.progress import Silent
from fedunlearn.scenario.loading import load_scenario
from tests.tables import ROOT

SCENARIO = ROOT / "simulations" / "catastrophic_forgetting.toml"


@pytest.mark.parametrize("seed", [0, 1])
def test_without_a_cubic_term_the_model_forgets_what_should_stay(seed: int) -> None:
    methods = 'unlearning.methods=["cubic-newton", "newton-pinv"]'
    loaded = load_scenario(SCENARIO, [f"data.seed={seed}", "evaluation.oracles=1", methods])
    results = run_scenario(loaded, transport="inline", progress=Silent()).results.model_dump(
        mode="json"
    )
    (request,) = results["requests"]
    before = request["trained"]["retain_accuracy"]
    loss = {n: before - entry["retain_accuracy"] for n, entry in request["methods"].items()}
    assert before > 0.9
    assert loss["newton-pinv"] > 0.20
    assert loss["cubic-newton"] < 0.015
    lengths = {name: entry["update_norm"] for name, entry in request["methods"].items()}
    assert lengths["newton-pinv"] > 3.0 * lengths["cubic-newton"]
