"""What every method tells of its work can be written down, and holds what it should."""

from __future__ import annotations

import json
import math
from functools import cache
from typing import Any

import pytest
import torch

from fedunlearn.federation.objective import FederatedObjective
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.solvers.solution import Status
from fedunlearn.unlearning.method import Claim, Unlearned
from fedunlearn.unlearning.registry import make_method, method_names
from tests.federations import TinyTask
from tests.removals import RecordingTransport, federation_of, trained_on

NODES = range(4)
FORGET = ForgetSet.of_class(1)
# Those that train are in test_training_methods.py and test_rewind.py, those of linear heads in
# test_exact_head.py and test_certified_head.py.
TRAIN = {
    *{"auto", "exact-head", "certified-head"},
    *{"retrain", "gradient-ascent", "fed-eraser", "rapid-retraining", "fed-osd", "not", "scrub"},
    *{"fine-tune", "rewind"},
}
VARIANTS: dict[str, dict[str, Any]] = {
    **{name: {} for name in method_names() if name not in TRAIN},
    "recorded": {"method": "cubic-newton", "gradient": "recorded"},
    "retained": {"method": "cubic-newton", "gradient": "retained", "steps": 2},
    "two-pass": {"method": "cubic-newton", "basis": "two-pass", "product-share": 0.5},
    "given weight": {"method": "cubic-newton", "weight": 0.1, "curvature": "hessian-abs"},
    "unbounded": {"method": "cubic-newton", "weight": 0, "curvature": "hessian", "products": 33},
}
OF_THEIR_OWN = {"stochastic-cubic-newton", "instant-cubic-newton"}
NEWTON = {
    *{"status", "remedy", "residual", "ritz_values", "weight", "damping", "predicted", "quadratic"},
    *{"products", "rounds", "candidates", "step_norm", "gradient_norm"},
}


@cache
def trained() -> TrainedModel:
    return trained_on(TinyTask(), NODES, stationary=False)


def unlearn(name: str) -> tuple[Unlearned, dict[str, Any], RecordingTransport]:
    method = make_method(name, VARIANTS[name])
    federation, listening = federation_of(TinyTask(), NODES)
    model = federation.record(trained(), method.to_record())
    listening.heard.clear()
    found = method.unlearn(model, federation, FORGET)
    written: dict[str, Any] = json.loads(json.dumps(dict(found.details), allow_nan=False))
    assert written == dict(found.details)
    return found, written, listening


@pytest.mark.parametrize("name", VARIANTS)
def test_details_can_be_written_down(name: str) -> None:
    found, written, listening = unlearn(name)
    assert found.claim is Claim.EMPIRICAL
    assert isinstance(found.status, str) and found.status
    assert "rounds" in written
    assert written["rounds"] == len(listening.heard)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in OF_THEIR_OWN])
def test_newton_methods_tell_how_the_step_came_about(name: str) -> None:
    found, written, listening = unlearn(name)
    status = Status[written["status"].upper()]
    assert written["remedy"] == status.value
    left_out = {"predicted", "quadratic"} if status is Status.UNBOUNDED else set()
    assert set(written) >= NEWTON - left_out
    products = sum(type(q.ask).__name__ == "Products" for q, _ in listening.heard)
    steps = VARIANTS[name].get("steps", 1)
    assert written["products"] * steps == products
    size = VARIANTS[name].get("products", 10)
    assert len(written["ritz_values"]) == size
    assert written["ritz_values"] == sorted(written["ritz_values"])
    if steps == 1:
        moved = float((found.weights - trained().weights).norm())
        assert written["step_norm"] == pytest.approx(moved, rel=1e-9)
    assert (status is Status.UNBOUNDED) == (name == "unbounded")


@pytest.mark.parametrize("name", ["cubic-newton", "recorded", "retained", "two-pass"])
def test_candidates_tell_weight_and_gain(name: str) -> None:
    _, written, _ = unlearn(name)
    candidates = written["candidates"]
    assert len(candidates) >= 4
    for candidate in candidates:
        assert set(candidate) >= {"weight", "damping", "predicted", "change", "gain", "acceptable"}
    (chosen,) = (c for c in candidates if c["weight"] == written["weight"])
    assert written["actual"] == chosen["change"]
    assert written["predicted"] == chosen["predicted"]
    assert (
        written["damping"]
        == chosen["damping"]
        == pytest.approx(0.5 * written["weight"] * written["step_norm"], rel=1e-8)
    )
    assert written["actual"] < 0.0


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_losses_that_overflow_are_told_without_a_number(
    bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losses(self: FederatedObjective, weights: torch.Tensor, steps: torch.Tensor) -> Any:
        del self, weights
        values = torch.full((len(steps) + 1,), bad, dtype=torch.float64)
        values[0] = 1.0
        return values

    monkeypatch.setattr(FederatedObjective, "losses", losses)
    found, written, _ = unlearn("cubic-newton")
    assert "no cubic weight" in found.status
    assert "actual" not in written
    assert all("gain" not in candidate for candidate in written["candidates"])


def test_stochastic_steps_are_told_one_by_one() -> None:
    _, written, _ = unlearn("stochastic-cubic-newton")
    assert len(written["steps"]) == 3
    for step in written["steps"]:
        assert set(step) >= {"status", "remedy", "residual", "weight", "damping", "products"}


def test_a_gradient_that_is_zero_leaves_the_model_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def gradient(self: FederatedObjective, weights: torch.Tensor, sample: Any = None) -> Any:
        return 0.0 * told(self, weights, sample)

    told = FederatedObjective.gradient
    monkeypatch.setattr(FederatedObjective, "gradient", gradient)
    found, written, listening = unlearn("retained")
    assert found.status == Status.STATIONARY.value
    assert torch.equal(found.weights, trained().weights)
    assert found.weights is not trained().weights
    assert set(written) == {"rounds"}
    assert written["rounds"] == len(listening.heard) == 1
