"""What a product costs, in gradients over the same examples, and beside curvlinops."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedunlearn.models.catalogue import Factory, cnn, mlp
from fedunlearn.parameters import flatten
from fedunlearn.risk.objective import EmpiricalRisk
from fedunlearn.risk.products import Curvature
from tests.benchmarks import peers
from tests.benchmarks.timing import Work, alternate

EXAMPLES = 4096
SHAPE = (1, 28, 28)
CLASSES = 10
PRODUCTS = 10
MEMORY = 3 * 2**30
NAMES = {Curvature.HESSIAN: "hvp", Curvature.GGN: "ggn"}


@dataclass(frozen=True)
class Subject:
    """A model to measure with.

    Attributes:
        make: Builds it.
        rounds: To take the median of.
        peer_chunk: Examples that curvlinops takes at once, where it is fastest: of 16 to 256 for
            the CNN, of 256 to 4096 for the MLP; ours takes 64 and 2048.
    """

    make: Factory
    rounds: int
    peer_chunk: int


SUBJECTS = {"cnn": Subject(cnn, 3, 128), "mlp": Subject(mlp, 15, 4096)}


def product_costs() -> dict[str, dict[str, float]]:
    """Measure ten products one after another, what is done once for all ten included."""
    report: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for name, subject in SUBJECTS.items():
        for key, figure in _costs(subject).items():
            report[key][name] = figure
    return report


def _costs(subject: Subject) -> Mapping[str, float]:
    torch.manual_seed(0)
    model = subject.make(SHAPE, CLASSES)
    inputs, targets = torch.rand(EXAMPLES, *SHAPE), torch.randint(CLASSES, (EXAMPLES,))
    risk = EmpiricalRisk(model, nn.functional.cross_entropy, (inputs, targets))
    weights = flatten(model)
    vectors = torch.randn(PRODUCTS, len(weights))

    def ours(curvature: Curvature) -> Work:
        def run(rows: Tensor) -> Tensor:
            kept = risk.curvature(weights, curvature, budget=MEMORY)
            return torch.cat([kept.products(row[None]) for row in rows])

        return run

    work: dict[str, Work] = {
        "gradient": lambda rows: risk.gradient(weights),
        "loss": lambda rows: torch.tensor(risk.value(weights)),
    }
    for curvature, name in NAMES.items():
        work[name] = ours(curvature)
        if peers.installed():
            examples = list(
                zip(*(part.split(subject.peer_chunk) for part in (inputs, targets)), strict=True)
            )
            work[f"curvlinops {name}"] = peers.products(model, examples, curvature)
    times = alternate(work, vectors, subject.rounds)

    costs = {"loss_over_gradient": times.ratio("loss", "gradient")}
    for name in NAMES.values():
        costs[f"{name}_over_gradient"] = times.ratio(name, "gradient") / PRODUCTS
        if peers.installed():
            peers.require_equal(times.results[f"curvlinops {name}"], times.results[name] / EXAMPLES)
            costs[f"curvlinops_over_{name}"] = times.ratio(f"curvlinops {name}", name)
    costs["gradient_seconds"] = times.median("gradient")

    kept = risk.curvature(weights, Curvature.GGN, budget=MEMORY)
    several = {
        "together": kept.products,
        "apart": lambda rows: torch.cat([kept.products(row[None]) for row in rows]),
    }
    times = alternate(several, vectors, max(1, subject.rounds // 3))
    return costs | {"several_over_one": times.ratio("together", "apart")}
