"""Rounds as Flower messages on a deployment, timed by the server."""

from __future__ import annotations

import json
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedunlearn.federation.accounting import MeterStack
from fedunlearn.flower.client_app import app_of
from fedunlearn.flower.messages import MessageTransport, enrol
from fedunlearn.flower.metered_grid import MeteredGrid
from tests.benchmarks.echo import Echo, timed_round

client = app_of(lambda context, settings: Echo(settings.number))  # type: ignore[arg-type,return-value]
server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Ask for each size once; enrolment has started every node's process before."""
    config = context.run_config
    metered = MeteredGrid(grid, MeterStack())
    found = enrol(metered, int(config["nodes"]), deadline_s=120.0)
    transport = MessageTransport(metered, {n: address for n, (address, _) in found.items()})
    sizes = [int(size) for size in str(config["sizes"]).split(",")]
    seconds = {str(size): timed_round(transport, sorted(found), size, 0) for size in sizes}
    path = Path(str(config["out"])) / "results.json"
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(seconds))
    draft.replace(path)
