"""A worker for a user's own Flower app: in the simulation, or by ``flwr run`` on a SuperLink."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedunlearn.errors import FederationError
from fedunlearn.flower.own_apps import removal_app, training_app
from fedunlearn.flower.own_simulation import simulate_own
from fedunlearn.operator.app_folder import APP, DATABASE, OUT, STATE
from fedunlearn.operator.app_removals import AppRemovals
from fedunlearn.operator.app_server import FAILURE
from fedunlearn.operator.worker_loop import NODES
from fedunlearn.requests.deletion import State

SERVER = "fedunlearn.operator.app_server"
NODES_AT_FIRST = 10
LOOK_S = 1.0


@dataclass
class AppWorker:
    """Carries out due requests in a user's app.

    Attributes:
        removals: Removals in the app, with its state folder.
        once: Whether to end when no request is due, instead of waiting.
        database: URL of the request store; None for the store in the state folder.
    """

    removals: AppRemovals
    once: bool
    database: str | None = None

    def simulated(self, nodes: int | None) -> None:
        """Run the worker in Flower's simulation; the app trains the first model if there is none.

        Args:
            nodes: Number of nodes; None for as many as there were at the first training.
        """
        removals = self.removals
        app = removals.app
        removals.idle_s = 0.0 if self.once else None
        server = (
            removal_app(removals.run)
            if removals.trained
            else training_app(lambda config: app.server_app(), removals.take_over)
        )
        simulate_own(
            app.load(app.client),
            server,
            nodes=nodes or removals.node_count or app.settings.nodes or NODES_AT_FIRST,
            config=app.config,
            folder=app.folder,
            records=removals.state.folder / NODES,
        )

    def deployed(self, connection: str) -> None:
        """Run the worker by ``flwr run`` on a SuperLink: one run for all requests due at a time.

        Args:
            connection: Name of the SuperLink connection in Flower's configuration.
        """
        while not self.removals.stop.is_set():
            if not self.removals.trained:
                self._run("training", connection)
            elif self._due():
                self._run("removal", connection)
            elif self.once:
                return
            else:
                self.removals.stop.wait(LOOK_S)

    def _due(self) -> bool:
        waiting = (State.PENDING, State.RUNNING)
        return bool(self.removals.state.store.list(states=waiting, limit=1))

    def _run(self, what: str, connection: str) -> None:
        """Run a copy of the app with a ServerApp of this package, and wait until it ends.

        Raises:
            FederationError: The run failed; the message contains its reason.
        """
        app, state = self.removals.app, self.removals.state
        with tempfile.TemporaryDirectory(prefix="fedunlearn-app-") as made:
            folder = Path(made)
            config = {
                STATE: str(state.folder.resolve()),
                APP: str(app.folder.resolve()),
                OUT: str(folder),
                DATABASE: self.database or "",
            }
            app.copied(folder / "app", f"{SERVER}:{what}", config)
            command = [sys.executable, "-m", "flwr.cli.app", "run", str(folder / "app"), connection]
            done = _waited([*command, "--stream"], lambda: self.removals.stop.is_set())
            failure = folder / FAILURE
            if failure.exists():
                raise FederationError(failure.read_text(encoding="utf-8").strip())
            if done.returncode:
                output = " ".join((done.stdout + done.stderr).split())
                raise FederationError(f"flwr run failed: {output[-300:]}")


def _waited(command: list[str], stopped: Callable[[], bool]) -> subprocess.CompletedProcess[str]:
    """Run a command until it ends, or until the worker is stopped."""
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, text=True
        )
        try:
            while process.poll() is None and not stopped():
                time.sleep(0.2)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        out.seek(0)
        return subprocess.CompletedProcess(command, process.returncode, out.read(), "")
