"""A user's own app in Flower's simulation, in this process's tree, with its run config."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedunlearn.flower.node_memory import FOLDERS
from fedunlearn.flower.simulation import run_engine


class _WithConfig:
    """A ClientApp whose nodes see a run config, which ``run_simulation`` leaves empty."""

    def __init__(self, app: ClientApp, config: Mapping[str, Any]) -> None:
        self.app, self.config = app, dict(config)

    def __call__(self, message: Message, context: Context) -> Message:
        seen = _configured(context, self.config)
        reply = self.app(message, seen)
        context.state = seen.state
        return reply


def _configured(context: Context, config: Mapping[str, Any]) -> Context:
    """Return a context with a run config, which the engine's own context does not accept."""
    return Context(
        run_id=context.run_id,
        node_id=context.node_id,
        node_config=context.node_config,
        state=context.state,
        run_config={**config, **context.run_config},
    )


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
        server: The app that runs on the server.
        nodes: Number of nodes.
        config: The app's run config.
        folder: Folder of the app, from which workers import it.
        records: Folder that contains one folder per node for its records.

    Raises:
        FederationError: Flower's engine fails.
        BaseException: The exception that the ServerApp raised.
    """
    failure: list[BaseException] = []
    outer = ServerApp()

    @outer.main()
    def main(grid: Grid, context: Context) -> None:
        # The engine would log a ServerApp's exception with its traceback, so it is raised below
        # instead.
        try:
            server(grid, _configured(context, config))
        except BaseException as error:
            failure.append(error)

    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ[FOLDERS] = str(records)
    app: Any = _WithConfig(client, config)
    run_engine(outer, app, nodes)
    if failure:
        raise failure[0]
