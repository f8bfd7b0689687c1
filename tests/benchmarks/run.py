"""Measures what the cost accounting assumes, and writes bench.json.

Ratios of times taken side by side in one process, on one thread, as medians over rounds that
alternate between the things compared: they hold where the machine's speed drifts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from fedunlearn.data.models import cnn, mlp
from fedunlearn.parameters import flatten
from fedunlearn.risk.objective import EmpiricalRisk
from fedunlearn.risk.products import Curvature

EXAMPLES = 4096
REPEATS = 5
PRODUCTS = 10
MEMORY = 2 * 2**30
MODELS = {"cnn": (cnn, (1, 28, 28)), "mlp": (mlp, (1, 28, 28))}


def alternate(work: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Time each piece of work in turn, again and again, after one run that does not count."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for repeat in range(repeats + 1):
        for name, function in work.items():
            start = time.perf_counter()
            function()
            if repeat:
                times[name].append(time.perf_counter() - start)
    return times


def product_ratios(model: nn.Module, shape: tuple[int, ...]) -> dict[str, float]:
    """Return the median time of each operation over that of a gradient in the same round.

    A product is a tenth of a basis of ten, one after the other, what is done once included.
    """
    generator = torch.Generator().manual_seed(0)
    examples = (
        torch.rand(EXAMPLES, *shape, generator=generator),
        torch.randint(0, 10, (EXAMPLES,), generator=generator),
    )
    risk = EmpiricalRisk(model, nn.functional.cross_entropy, examples)
    weights = flatten(model)
    basis = torch.randn(PRODUCTS, 1, len(weights), generator=generator)

    def products(curvature: Curvature) -> Callable[[], Tensor]:
        def run() -> Tensor:
            kept = risk.curvature(weights, curvature, budget=MEMORY)
            return torch.cat([kept.products(vector) for vector in basis])

        return run

    times = alternate(
        {
            "gradient": lambda: risk.gradient(weights),
            "loss": lambda: risk.value(weights),
            "hvp": products(Curvature.HESSIAN),
            "ggn": products(Curvature.GGN),
        },
        REPEATS,
    )
    gradients = times.pop("gradient")
    ratios = {
        name: statistics.median(t / g for t, g in zip(values, gradients, strict=True))
        / (1 if name == "loss" else PRODUCTS)
        for name, values in times.items()
    }
    return ratios | {"gradient_seconds": statistics.median(gradients)}


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    out: Path = parser.parse_args().out
    torch.set_num_threads(1)
    torch.manual_seed(0)
    measured = {
        name: product_ratios(make(shape, 10), shape) for name, (make, shape) in MODELS.items()
    }
    columns = {
        "hvp_over_gradient": "hvp",
        "ggn_over_gradient": "ggn",
        "loss_over_gradient": "loss",
        "gradient_seconds": "gradient_seconds",
    }
    report = {
        key: {name: round(ratios[column], 4) for name, ratios in measured.items()}
        for key, column in columns.items()
    }
    out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
