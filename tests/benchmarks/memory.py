"""The memory that one node takes for a product of ResNet-18, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import nn

from fedunlearn.models.resnet import resnet18_layers
from fedunlearn.node.node import MEMORY
from fedunlearn.parameters import flatten
from fedunlearn.risk.objective import EmpiricalRisk
from fedunlearn.risk.products import Curvature
from tests.benchmarks.peak import peak_mib

EXAMPLES = 256
SHAPE = (3, 32, 32)
CLASSES = 10


def node_memory() -> dict[str, object]:
    """Measure the peak of a process that forms one product, from its start to its end."""
    command = [sys.executable, "-m", "tests.benchmarks.memory"]
    peaks = {
        curvature.value: float(subprocess.check_output([*command, curvature.value], text=True))
        for curvature in Curvature
    }
    parameters = sum(p.numel() for p in resnet18_layers(SHAPE[0], CLASSES).parameters())
    return {"memory": {"resnet18_product_peak_mib": peaks, "resnet18_parameters": parameters}}


def _multiply(curvature: Curvature) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = resnet18_layers(SHAPE[0], CLASSES)
    examples = torch.rand(EXAMPLES, *SHAPE), torch.randint(CLASSES, (EXAMPLES,))
    weights = flatten(model)
    risk = EmpiricalRisk(model, nn.functional.cross_entropy, examples)
    risk.curvature(weights, curvature, budget=MEMORY).products(torch.randn(1, len(weights)))


if __name__ == "__main__":
    _multiply(Curvature(sys.argv[1]))
    print(peak_mib())
