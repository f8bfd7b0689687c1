"""A removal from a recording in files, for a model of 11 million parameters.

Run as a program it is the server that takes the step, in a process of its own on one thread. The
recording is of random numbers: what a step costs does not depend on them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typing_extensions import override

from fedunlearn.questions.forget import ForgetSet
from fedunlearn.questions.subspace_summary import Summary
from fedunlearn.recording.basis import Basis
from fedunlearn.recording.recording import Group, Recording
from fedunlearn.recording.reduced import natural_damping
from fedunlearn.recording.storage import BASIS, SUMS, open_recording, save_recording
from tests.benchmarks.peak import peak_mib

DIMENSION = 11_173_962
COLUMNS = 40
GROUPS = 40
EXAMPLES = 100
HORIZON = 10.0
MODEL = "model.safetensors"
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}

BOUNDS = {
    f"instant_step.{precision}.{figure}": bound
    for precision in PRECISIONS
    for figure, bound in {
        "seconds": "< 1",
        "extra_mib": f"<= {(500e6 + 4 * DIMENSION) / 2**20:.0f}",
    }.items()
}


class DrawnBasis(Basis):
    """Rows of about unit length, drawn whenever they are asked for."""

    def __init__(self, precision: torch.dtype) -> None:
        self.size, self.dimension, self.precision = COLUMNS, DIMENSION, precision

    @override
    def rows(self, start: int, stop: int) -> Tensor:
        drawn = [
            torch.randn(self.dimension, generator=torch.Generator().manual_seed(row))
            for row in range(start, stop)
        ]
        return (torch.stack(drawn) / self.dimension**0.5).to(self.precision)


def instant_step() -> dict[str, object]:
    """Return the seconds of a step, of what comes after, and the memory that it takes.

    The memory is the peak of a fresh process, from where the model is in memory and the recording
    is not open, until the new model is in memory: what the step maps and the new model count. So
    the bound is 500 MB and the size of the model. The files were written just before, so that they
    are read from the system's cache.
    """
    measured: dict[str, object] = {}
    for name, precision in PRECISIONS.items():
        with tempfile.TemporaryDirectory(prefix="fedunlearn-bench-") as folder:
            _prepare(Path(folder), precision)
            command = [sys.executable, "-m", "tests.benchmarks.instant_step", folder]
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        measured[name] = json.loads(told)
    return {"instant_step": measured}


def _prepare(folder: Path, precision: torch.dtype) -> None:
    """Write a model and its recording."""
    generator = np.random.default_rng(0)

    def summary() -> Summary:
        half = generator.standard_normal((COLUMNS, COLUMNS))
        along = generator.standard_normal(COLUMNS)
        return Summary(
            EXAMPLES,
            float(EXAMPLES),
            2.0 * float(along @ along),
            float(along @ along),
            along,
            half @ half.T,
        )

    groups = {Group(node, None): summary() for node in range(GROUPS)}
    stays = sum(groups.values(), Summary.nothing(COLUMNS))
    recording = Recording(
        basis=DrawnBasis(precision),
        share=1.0,
        point=generator.standard_normal(COLUMNS),
        weight_decay=1e-3,
        horizon=HORIZON,
        absolute=False,
        by_label=False,
        examples=stays.examples,
        mass=stays.mass,
        batch_size=None,
        stays=stays,
        groups=groups,
        left=np.zeros(COLUMNS),
        coordinates=np.zeros(COLUMNS),
        model=bytes(32),
    )
    save_recording(recording, folder)
    weights = torch.randn(DIMENSION, generator=torch.Generator().manual_seed(0))
    save_file({"weights": weights}, folder / MODEL)


def main() -> None:
    """Take one group out of the recording in a folder and print what it took."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    weights = load_file(folder / MODEL)["weights"].clone()  # in memory, not mapped
    before = _resident_mib()
    recording = open_recording(folder, verify=False)

    start = time.perf_counter()
    forget = ForgetSet.of_nodes(GROUPS // 2)
    leaving = recording.stored(forget)
    assert leaving is not None
    after = recording.without(leaving, forget)
    step = after.problem().damped(natural_damping(after.horizon))
    moved = recording.basis.moved(weights, step.coordinates - recording.coordinates)
    seconds = time.perf_counter() - start
    extra = peak_mib() - before

    start = time.perf_counter()
    save_file({"weights": moved}, folder / "new.safetensors")
    write_seconds = time.perf_counter() - start

    start = time.perf_counter()
    save_recording(replace(after, coordinates=step.coordinates), folder)
    sums_seconds = time.perf_counter() - start

    start = time.perf_counter()
    open_recording(folder, verify=True)
    verify_seconds = time.perf_counter() - start

    print(
        json.dumps(
            {
                "seconds": seconds,
                "extra_mib": extra,
                "write_seconds": write_seconds,
                "sums_write_seconds": sums_seconds,
                "verify_seconds": verify_seconds,
                "file_mib": sum((folder / name).stat().st_size for name in (BASIS, SUMS)) / 2**20,
            }
        )
    )


def _resident_mib() -> float:
    """Read the resident memory as it is now; mapped pages count, as they do in the peak."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024.0


if __name__ == "__main__":
    main()
