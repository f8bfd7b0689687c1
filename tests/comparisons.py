"""Results of several seeds, small and without a run."""

from __future__ import annotations

import json
from typing import Any

from fedunlearn.reporting.results import Results
from fedunlearn.reporting.seed_summary import ScenarioSummary, summarise

DONE = {"status": "done", "claim": "EMPIRICAL"}
COSTS = {
    "cubic-newton": (14, 22.6, 1_090_000, 2_840_000),
    "instant-cubic-newton": (0, 0.0, 3_400, 0),
    "fine-tune": (12, 24.0, 1_050_000, 1_060_000),
}
NAMES = {"nodes": ["0", "1"], "classes": ["cat", "dog"]}
ENVIRONMENT = {
    "transport": "inline",
    "python": "3.11.7",
    "torch": "2.13.0",
    "flwr": "1.41.0",
    "cores": 2,
    "threads": 1,
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


def cost(rounds: int, gradients: float, up: int, down: int, seed: int) -> dict[str, Any]:
    return {
        "rounds": rounds,
        "bytes_up": up,
        "bytes_down": down,
        "gradient_equivalents": gradients,
        "seconds": 0.123 + seed,
    }


def results_of(document: dict[str, Any]) -> Results:
    """Read results as from a file; NaN and infinity are dropped as a run drops them."""
    return Results.model_validate_json(json.dumps(document))


def summary_of(name: str, documents: list[dict[str, Any]]) -> ScenarioSummary:
    """Summarise results of several seeds."""
    return summarise(name, [results_of(document) for document in documents])


def document(seed: int, *, requests: int = 1, drift: float = 0.002) -> dict[str, Any]:
    """Return results in which every forget JS grows with the seed."""
    return {
        "schema": 1,
        "fedunlearn": "0.1.0",
        "name": "small",
        "scenario": {
            "data": {"name": "digits", "seed": seed},
            "unlearning": {"methods": list(COSTS), "cubic-newton": {"products": 3}},
        },
        "names": NAMES,
        "environment": ENVIRONMENT,
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
            "nodes": [str(seed)],
            "description": f"node {seed + place}",
            "forgotten_examples": 300 + seed,
            "retained_examples": 1000 - seed,
        },
        "floor": {"forget_js": 0.01 + 0.001 * seed, "retain_js": 0.004, "test_js": 0.005},
        "trained": measures(0.13, 0.5) | {"gradient_norm": 0.3},
        "retrained": measures(0.0, 1.0) | cost(60, 120.0, 5_000_000, 5_000_000, seed),
        "methods": methods,
    }
