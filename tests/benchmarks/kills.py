"""SIGKILL at random moments, nodes and server in turn; a job ends with the weights it would have.

Run as a program it is the server or a node. In the place of Flower, which would carry the
invitations and start processes anew, there is a folder of invitations, and whoever runs this.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

NODES = 3
ROOT = Path(__file__).parents[2]
LONGEST_S = 6.0  # between kills; a process needs two seconds to start, a job three more
LIMIT_S = 60.0
STOP = "stop"  # a file: the server ends with the job that runs


class Harness:
    """The processes, which are started anew when they are killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running = {role: self._start(role) for role in ("server", *map(str, range(NODES)))}

    def _start(self, role: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.benchmarks.kills", role, str(self.folder)]
        return subprocess.Popen(command, cwd=ROOT)

    def kill(self, role: str) -> None:
        self.running[role].kill()
        self.running[role].wait()
        self.running[role] = self._start(role)

    def results(self) -> list[Path]:
        return sorted(self.folder.glob("weights-*.pt"))

    def stop(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()


def killed(kills: int, folder: Path, seed: int = 0) -> tuple[int, float]:
    """Kill so often, then let the last job end.

    Returns:
        How many jobs ended, and the largest difference of their weights from those of an
        undisturbed one.
    """
    import torch

    from tests.benchmarks.kills_job import undisturbed

    dice = random.Random(seed)
    harness = Harness(folder)
    try:
        for number in range(kills):
            time.sleep(dice.uniform(0.0, LONGEST_S))
            harness.kill(("server", *map(str, range(NODES)))[number % (NODES + 1)])
        (folder / STOP).touch()
        assert harness.running["server"].wait(LIMIT_S) == 0  # the last job ended after all kills
    finally:
        harness.stop()
    left = {path.name for path in folder.rglob("*")} - {STOP}
    assert not {name for name in left if not name.startswith(("weights-", "invitation-"))}, left
    assert not {name for name in left if name.endswith(".part")}, left
    expected = undisturbed()
    found = [torch.load(path) for path in harness.results()]
    return len(found), max(float((weights - expected).abs().max()) for weights in found)


def kills() -> Mapping[str, object]:
    """Return the figures of thirty kills."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        jobs, error = killed(30, Path(folder))
    return {"kills": {"kills": 30, "jobs_that_ended": jobs, "largest_difference": error}}


BOUNDS = {"kills.largest_difference": "<= 1e-06"}


def main() -> None:
    """Be the server, or the node of a number."""
    from tests.benchmarks import kills_job

    role, folder = sys.argv[1], Path(sys.argv[2])
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if role == "server":
        kills_job.serve(folder, NODES)
        # What counts is that the job ended and its weights are stored. Some of gRPC's threads are
        # daemons that never end, and Python may abort where it ends while they run.
        os._exit(0)
    else:
        kills_job.attend_for_ever(folder, int(role))


def invitation_path(folder: Path, node: int) -> Path:
    return folder / f"invitation-{node}.json"


if __name__ == "__main__":
    main()
