"""Results of several seeds, small and without a run."""

from __future__ import annotations

from typing import Any

DONE = {"status": "done", "claim": "EMPIRICAL"}
COSTS = {
    "cubic-newton": (14.0, 22.6, 1_090_000, 2_840_000),
    "instant-cubic-newton": (0.0, 0.0, 3_400, 0),
    "fine-tune": (12.0, 24.0, 1_050_000, 1_060_000),
}
FORGET_JS = {"cubic-newton": 0.03, "instant-cubic-newton": 0.05, "fine-tune": 0.06}


def measures(forget_js: float, tow: float = 0.8) -> dict[str, Any]:
    return {
        "forget_accuracy": 0.6,
        "retain_accuracy": 0.95,
        "test_accuracy": 0.87,
        "forget_loss": 0.7,
        "forget_js": forget_js,
        "retain_js": 0.008,
        "test_js": 0.015,
        "tow": tow,
        "mia_auc": 0.437,
    }


def cost(rounds: float, gradients: float, up: int, down: int, seed: int) -> dict[str, Any]:
    return {
        "rounds": rounds,
        "bytes_up": up,
        "bytes_down": down,
        "gradient_equivalents": gradients,
        "seconds": 0.123 + seed,
    }


def document(seed: int, *, requests: int = 1, drift: float = 0.002) -> dict[str, Any]:
    """Return results in which every forget JS grows with the seed."""
    return {
        "fedunlearn": "0.1.0",
        "name": "small",
        "scenario": {
            "data": {"name": "digits", "seed": seed},
            "unlearning": {"methods": list(COSTS), "cubic-newton": {"products": 3}},
        },
        "environment": {"transport": "inline", "python": "3.11.7"},
        "requests": [_request(seed, place, drift) for place in range(requests)],
    }


def _request(seed: int, place: int, drift: float) -> dict[str, Any]:
    methods: dict[str, Any] = {}
    for name, spent in COSTS.items():
        js = FORGET_JS[name] + drift * seed + 0.01 * place
        methods[name] = measures(js) | cost(*spent, seed) | DONE
        methods[name] |= {"curve": [{"rounds": 0, "forget_js": js}], "details": {"weight": 3.0}}
    return {
        "forget": {
            "kind": "node",
            "nodes": [seed],
            "description": f"node {seed + place}",
            "forgotten_examples": 300 + seed,
            "retained_examples": 1000 - seed,
        },
        "floor": {"forget_js": 0.01 + 0.001 * seed, "retain_js": 0.004, "test_js": 0.005},
        "trained": measures(0.13, 0.5) | {"gradient_norm": 0.3},
        "retrained": measures(0.0, 1.0) | cost(60.0, 120.0, 5_000_000, 5_000_000, seed),
        "methods": methods,
    }
