"""A user's own app in Flower's simulation, in this process's tree, with its run config."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedunlearn.errors import FederationError
from fedunlearn.flower.descendants import ended_on_failure
from fedunlearn.flower.node_memory import FOLDERS
from fedunlearn.flower.simulation import quiet_flower, sigterm_as_it_was


class _WithConfig:
    """A ClientApp whose nodes see a run config, which ``run_simulation`` leaves empty."""

    def __init__(self, app: ClientApp, config: Mapping[str, Any]) -> None:
        self.app, self.config = app, dict(config)

    def __call__(self, message: Message, context: Context) -> Message:
        context.run_config = {**self.config, **context.run_config}
        return self.app(message, context)


def simulate_own(
    client: ClientApp,
    server: ServerApp,
    *,
    nodes: int,
    config: Mapping[str, Any],
    folder: Path,
    records: Path,
) -> None:
    """Run a user's app in a simulation until its ServerApp ends.

    Args:
        client: The user's ClientApp.
        server: What runs on the server.
        nodes: How many nodes.
        config: The app's run config.
        folder: Of the app, from which workers import it.
        records: Folder that has one for each node's records.

    Raises:
        FederationError: Flower's engine fails.
        BaseException: What the ServerApp raised.
    """
    failure: list[BaseException] = []
    outer = ServerApp()

    @outer.main()
    def main(grid: Grid, context: Context) -> None:
        # The engine logs a ServerApp's exception with its traceback: it is raised below instead.
        context.run_config = {**config, **context.run_config}
        try:
            server(grid, context)
        except BaseException as error:
            failure.append(error)

    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ[FOLDERS] = str(records)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    app: Any = _WithConfig(client, config)
    with quiet_flower(), ended_on_failure(), sigterm_as_it_was():
        from flwr.simulation import run_simulation

        try:
            run_simulation(
                outer,
                app,
                num_supernodes=nodes,
                backend_config={
                    "init_args": {"logging_level": logging.ERROR, "log_to_driver": False},
                    "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
                },
            )
        except RuntimeError as error:  # what the engine makes of any failure of its own
            if not failure:
                raise FederationError(
                    f"Flower's simulation failed: {error.__cause__ or error}"
                ) from error
    if failure:
        raise failure[0]
