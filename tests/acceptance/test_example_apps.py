"""The apps in examples/ by ``flwr run``, in Flower's simulation: plain and forgetting."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
BIN = Path(sys.executable).parent
RUN_S = 180
FEW = {
    "images": "num-server-rounds=1 local-epochs=1",
    "text": "num-server-rounds=1 texts=120 hidden-size=16",
    "hospitals": (
        "num-server-rounds=1 local-epochs=1 forget-nodes='' forget-records='{2: [0, 1]}'"
    ),
}
PLAIN = FEW["images"]
REMOVED = {
    "images": "removed node 2",
    "text": "removed 8 examples of node 1",
    "hospitals": "removed 2 examples of node 2 (2 examples)",
}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class Flower:
    """A SuperLink of this test's own, with the simulation runtime."""

    def __init__(self, folder: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        paths = [str(EXAMPLES.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = os.environ | {
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": os.pathsep.join(paths),
            "FLWR_HOME": str(folder),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",
            "OMP_NUM_THREADS": "1",
        }
        (folder / "config.toml").write_text(
            '[superlink]\ndefault = "test"\n\n[superlink.test]\n'
            f'address = "{self.address}"\ninsecure = true\n'
        )
        self.log = folder / "superlink.log"
        host, _, port = self.address.partition(":")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(BIN / "flower-superlink", "--insecure", "--simulation"),
                    *("--host", host, "--port", port, "--disable-runtime-dependency-installation"),
                ],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with socket.socket() as one:
                if one.connect_ex((host, int(port))) == 0:
                    return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.2)
        raise AssertionError(self.log.read_text())

    def run(self, app: Path, config: str, nodes: int = 3) -> str:
        """Run an app to its end and return what it prints."""
        done = subprocess.run(
            [
                *(BIN / "flwr", "run", app, "test", "--stream", "--run-config", config),
                *("--federation-config", f"num-supernodes={nodes} client-resources-num-cpus=1"),
            ],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=RUN_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def flower(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    started = Flower(tmp_path_factory.mktemp("flower"))
    yield started
    started.stop()


@pytest.mark.parametrize("name", sorted(FEW))
def test_an_app_that_forgets_prints_what_became_of_it(flower: Flower, name: str) -> None:
    printed = flower.run(EXAMPLES / name / "forgetting", FEW[name])
    assert REMOVED[name] in printed
    assert "by rewind: done" in printed
    assert "retain set: loss" in printed


def test_a_plain_app_runs(flower: Flower) -> None:
    printed = flower.run(EXAMPLES / "images" / "plain", PLAIN)
    assert "Aggregated MetricRecord" in printed and "retain set" not in printed
