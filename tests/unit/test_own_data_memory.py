"""A node over data larger than what it may hold: a pass holds one batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SIZE, LIMIT = 300 * 2**20, 100 * 2**20

SCRIPT = """
import os, resource, sys, time
import numpy as np, torch
from torch import nn
from fedunlearn.commitments import Commitments
from fedunlearn.node.own_task import OwnTask
from fedunlearn.parameters import flatten
from fedunlearn.risk.objective import EmpiricalRisk
from fedunlearn.risk.products import Curvature

SIDE = 3 * 64 * 64
COUNT = int(sys.argv[2]) // (4 * SIDE)
FILE = os.open(sys.argv[1], os.O_RDONLY)


class Images(torch.utils.data.Dataset):
    def __len__(self):
        return COUNT

    def __getitem__(self, place):
        row = np.frombuffer(os.pread(FILE, 4 * SIDE, 4 * SIDE * place), dtype=np.float32)
        return torch.from_numpy(row.copy()).view(3, 64, 64), place % 10


def net():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(3844, 10),
    )


def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def load():
    return torch.utils.data.DataLoader(Images(), batch_size=16, shuffle=True)


warm = OwnTask(net, nn.functional.cross_entropy, lambda: [(torch.rand(3, 64, 64), 1)] * 64)
model = warm.model()
weights = flatten(model)
risk = EmpiricalRisk(model, warm.loss, warm.data())
risk.curvature(weights, Curvature.GGN, budget=0).products(weights[None])
risk.gradient(weights)
start = peak()
task = OwnTask(net, nn.functional.cross_entropy, load)
examples = task.data()
before = time.monotonic()
assert Commitments.of(b"s" * 32, examples.record_bytes()).size == COUNT
assert len(examples.labels) == COUNT
model = task.model()
risk = EmpiricalRisk(model, task.loss, examples.at(torch.arange(0, COUNT, 2)))
assert risk.gradient(weights).isfinite().all()
for kind in Curvature:
    assert risk.curvature(weights, kind, budget=2**24).products(weights[None]).isfinite().all()
assert risk.value(weights) > 0.0
print(peak() - start, time.monotonic() - before)
"""


def test_a_pass_over_a_large_file_holds_one_batch(tmp_path: Path) -> None:
    path = tmp_path / "images"
    row = bytes(range(64)) * 2**14  # small numbers, as float32 has them
    with path.open("wb") as file:
        for _ in range(SIZE // len(row)):
            file.write(row)
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), str(SIZE)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    grown, seconds = map(float, run.stdout.split())
    assert grown < LIMIT, (grown, seconds)
