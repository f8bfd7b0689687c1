"""A whole deployment on the loopback interface: train, let a node leave, remove it, stop.

Starts a SuperLink with TLS and SuperNode authentication, a SuperNode a node and the deletion
service, each a process of its own as it would be on a machine of its own; runs the scenario; lets a
node ask to leave, with its own key; verifies the receipt; prints the table. Everything it
starts and writes, but for the results, is gone at the end, however that comes.

Exit status: 0 done, 1 a node or Flower failed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from keys import make_keys  # noqa: E402
from story import furnish, leave, leaver  # noqa: E402

from fedunlearn.errors import FedunlearnError  # noqa: E402
from fedunlearn.flower.descendants import ended_afterwards  # noqa: E402

HOST = "127.0.0.1"
CONNECTION = "deployment"
START_S = 60.0


class DeploymentError(Exception):
    """What stopped the deployment, in one line."""


class Deployment:
    """The processes, and a folder for all that they write."""

    def __init__(self, folder: Path, search: Path | None = None) -> None:
        """Take an empty folder, and one in which the apps look for modules; starts nothing."""
        self.folder = folder
        self.keys = folder / "keys"
        self.logs = folder / "logs"
        self.home = folder / "flwr"
        self.state = folder / "state"
        self.address = f"{HOST}:{free_port()}"
        for made in (self.logs, self.home):
            made.mkdir()
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []
        paths = [str(search)] if search else []
        if "PYTHONPATH" in os.environ:  # the apps run in folders of their own
            found = os.environ["PYTHONPATH"].split(os.pathsep)
            paths += [str(Path(path).resolve()) for path in found]
        self._environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(paths),
            "FLWR_HOME": str(self.home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",
            # Flower starts its parts by their names.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        }

    def start(self, nodes: list[str]) -> None:
        """Start the SuperLink, register every node's key, start the SuperNodes."""
        make_keys(self.keys, [HOST], nodes)
        host, _, port = self.address.partition(":")
        self._start(
            "superlink",
            "flower-superlink",
            *("--host", host, "--port", port),
            *("--ssl-ca-certfile", self.keys / "ca.crt"),
            *("--ssl-certfile", self.keys / "server.crt"),
            *("--ssl-keyfile", self.keys / "server.key"),
            "--enable-supernode-auth",
            *("--database", self.folder / "superlink.db"),
            "--disable-runtime-dependency-installation",
        )
        (self.home / "config.toml").write_text(
            f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
            f'address = "{self.address}"\nroot-certificates = "{self.keys / "ca.crt"}"\n'
        )
        self._await_port(int(port))
        for node in nodes:
            self.flwr("supernode", "register", self.keys / f"{node}.pub", CONNECTION)
        for number, node in enumerate(nodes):
            self._start(
                node,
                "flower-supernode",
                *("--superlink", self.address),
                *("--root-certificates", self.keys / "ca.crt"),
                *("--auth-supernode-private-key", self.keys / f"{node}.key"),
                *("--host", HOST, "--port", free_port()),
                *("--node-config", self._node_config(number, node)),
            )

    def serve(self, nodes: list[str]) -> str:
        """Start the deletion service beside the SuperLink.

        Args:
            nodes: Names of the nodes, whose enrolment keys may ask for their removal.

        Returns:
            Its address.
        """
        furnish(self.state, self.keys, nodes)
        address = f"{HOST}:{free_port()}"
        self._start("service", "fedunlearn", "serve", "--state", self.state, "--listen", address)
        self._await_port(int(address.rpartition(":")[2]), "the deletion service")
        return address

    def _node_config(self, number: int, node: str) -> str:
        records = self.folder / "records" / node
        return f'partition-id={number} org="{node}" records="{records}"'

    def run(
        self, out: Path, config: dict[str, str | float], limit_s: float, *, app: Path = HERE / "app"
    ) -> dict[str, Any]:
        """Run the app and wait for its results.

        Args:
            out: Where the ServerApp writes.
            config: Of the run.
            limit_s: Seconds to wait.
            app: Folder of the app.

        Returns:
            As in results.json.

        Raises:
            DeploymentError: It failed, or the time is up.
        """
        (self.folder / "run.toml").write_text(
            "".join(f"{key} = {json.dumps(value)}\n" for key, value in config.items())
        )
        self.flwr("run", app, CONNECTION, "--run-config", self.folder / "run.toml")
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            ended = self._ended()  # before looking for what it writes before it ends
            if (out / "results.json").exists():
                found: dict[str, Any] = json.loads((out / "results.json").read_text())
                return found
            if (out / "failure.txt").exists():
                raise DeploymentError((out / "failure.txt").read_text().strip())
            if ended:
                raise DeploymentError("the ServerApp ended without results")
            self.require_running()
            time.sleep(0.5)
        raise DeploymentError(f"no results within {limit_s:g} s")

    def require_running(self) -> None:
        """Raise where a process has ended.

        Raises:
            DeploymentError: Which.
        """
        for name, process in self._running:
            if process.poll() is not None:
                raise DeploymentError(f"{name} ended with status {process.returncode}")

    def flwr(self, *arguments: str | Path) -> str:
        """Run Flower's command.

        Args:
            arguments: Of ``flwr``.

        Returns:
            What it prints.

        Raises:
            DeploymentError: It fails.
        """
        done = subprocess.run(
            [sys.executable, "-m", "flwr.cli.app", *map(str, arguments)],
            env=self._environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode:
            said = " ".join((done.stdout + done.stderr).split())
            raise DeploymentError(f"flwr {arguments[0]} failed: {said[-300:]}")
        return done.stdout

    def stop(self) -> None:
        """Stop the SuperNodes, then the SuperLink, then whatever of theirs is left."""
        for _, process in reversed(self._running):
            _signal(process, signal.SIGTERM)
        end = time.monotonic() + 10.0
        for _, process in reversed(self._running):
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass
            _signal(process, signal.SIGKILL)  # the group: apps that a SuperNode left behind
            process.wait()

    def _start(self, name: str, command: str, *arguments: object) -> None:
        log = (self.logs / f"{name}.log").open("wb")
        with log:
            process = subprocess.Popen(
                [Path(sys.executable).with_name(command), *map(str, arguments)],
                env=self._environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running.append((name, process))

    def _await_port(self, port: int, who: str = "the SuperLink") -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            self.require_running()
            with socket.socket() as probe:
                probe.settimeout(1.0)
                if probe.connect_ex((HOST, port)) == 0:
                    return
            time.sleep(0.1)
        raise DeploymentError(f"{who} does not listen within {START_S:g} s")

    def _ended(self) -> bool:
        """Whether the ServerApp's process has ended, well or not."""
        return "Finished task" in (self.logs / "superlink.log").read_text(errors="replace")


def free_port() -> int:
    """Return a port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


@contextmanager
def deployed(nodes: list[str], logs: Path, search: Path | None = None) -> Iterator[Deployment]:
    """Start a deployment and stop it, whatever happens inside.

    Args:
        nodes: Names of the nodes, in the order of their numbers.
        logs: Folder into which the logs go where it fails.
        search: Folder in which the apps look for modules, besides the installed ones.

    Yields:
        The deployment, its SuperNodes started.
    """
    folder = Path(tempfile.mkdtemp(prefix="fedunlearn-deployment-"))
    deployment = Deployment(folder, search)
    try:
        deployment.start(nodes)
        yield deployment
    except Exception:
        shutil.copytree(deployment.logs, logs, dirs_exist_ok=True)
        raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # a second Ctrl-C must not leave half
            signal.signal(number, signal.SIG_IGN)
        deployment.stop()
        shutil.rmtree(folder, ignore_errors=True)


def tell(results: dict[str, Any], seconds: float) -> None:
    """Print the table, and what a round took by which way."""
    from fedunlearn.reporting.table import print_tables

    print_tables(results)
    (request,) = results["requests"]
    environment = results["environment"]
    trained, joined = request["retrained"], environment["session_join_seconds"]
    print(f"\nunlearning by {environment['transport']}; opening it took {joined:.1f} s")
    for name, cost in [("retraining", trained), *request["methods"].items()]:
        spent = cost["seconds"] - (joined if name != "retraining" else 0.0)
        print(f"{name}: {cost['rounds']} rounds, {spent / cost['rounds']:.3f} s a round")
    print(f"everything: {seconds:.0f} s")


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    hospitals = bool(os.environ.get("FEDUNLEARN_DATA"))
    parser.add_argument(
        "--scenario",
        choices=["digits", "hospitals"],
        default="hospitals" if hospitals else "digits",
        help="hospitals needs the folder FEDUNLEARN_DATA, and is what runs where that is set",
    )
    parser.add_argument("--out", type=Path, default=Path("out-deployment"))
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--limit", type=float, default=330.0, help="seconds for the run")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    names = {
        "hospitals": ["cleveland", "hungarian", "switzerland", "va"],
        "digits": [str(number) for number in range(4)],
    }[arguments.scenario]
    for name in ("results.json", "report.html", "failure.txt", "receipt.json", "issuer.pub"):
        (out / name).unlink(missing_ok=True)
    started = time.monotonic()
    # A shell lets its background jobs ignore interrupts, and a supervisor ends with SIGTERM.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ended_afterwards(), deployed(names, out / "logs") as deployment:
            print(f"SuperLink and {len(names)} SuperNodes run; the scenario starts", flush=True)
            address = deployment.serve(names)
            config = {
                "scenario": f"{arguments.scenario}.toml",
                "set": "\n".join(arguments.set),
                "out": str(out),
                "state": str(deployment.state),
                "idle-s": 60.0,
            }
            results = deployment.run(out, config, arguments.limit)
            node = leaver(out / "results.json")
            told = leave(
                address,
                deployment.keys,
                node,
                out,
                deployment.state / "issuer.pub",
                arguments.limit,
                deployment.require_running,
            )
            if told.state != "SUCCEEDED":
                raise DeploymentError(f"the request ended {told.state}: {told.reason}")
    except (DeploymentError, FedunlearnError) as error:
        said = " ".join(str(error).split())
        print(f"deployment: {said} (logs: {out / 'logs'})", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("deployment: interrupted; everything is stopped", file=sys.stderr)
        return 130
    print(f"node {node} asked to leave:", *told.lines, sep="\n  ", end="\n\n")
    tell(results, time.monotonic() - started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
