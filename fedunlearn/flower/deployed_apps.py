"""The apps of a deployment, whose run config names the scenario that they run."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from torch import nn

from fedunlearn.errors import FedunlearnError, ScenarioError
from fedunlearn.federation.federation import Federation, OnFault
from fedunlearn.federation.journal import Journal
from fedunlearn.federation.transport.session_server import Endpoint
from fedunlearn.flower.client_app import app_of
from fedunlearn.flower.node_settings import PAYLOADS, NodeSettings
from fedunlearn.flower.server_app import open_federation
from fedunlearn.flower.sessions import SessionSettings
from fedunlearn.networks import NetworkDigest
from fedunlearn.node.node import MEMORY, TaskNode
from fedunlearn.node.records import NodeRecords
from fedunlearn.parameters import ParameterLayout
from fedunlearn.progress import Silent
from fedunlearn.risk.task import Task
from fedunlearn.scenario.loading import LoadedScenario, load_scenario

FAILURE = "failure.txt"


class Open(Protocol):
    """A function that opens the federation of a deployment."""

    def __call__(
        self, nodes: int, model: nn.Module, /, *, refused: Collection[int] = ()
    ) -> Federation:
        """Open the federation.

        Args:
            nodes: Number of nodes that must be connected.
            model: The server's own model, which every node must build in the same way.
            refused: Nodes that have left the federation.
        """
        ...


def make_client(folder: Path, task_of: Callable[[LoadedScenario], Task]) -> ClientApp:
    """Build the ClientApp of the scenarios in a folder; each node finds its own data.

    Args:
        folder: Folder of the scenarios.
        task_of: Returns the task on which the nodes of a scenario compute.

    Returns:
        The app.
    """

    def node(context: Context, settings: NodeSettings) -> TaskNode:
        loaded = _scenario(folder, context.run_config)
        task = task_of(loaded)
        records = NodeRecords(settings.records) if settings.records else None
        memory = settings.memory or MEMORY
        return TaskNode(task, settings.number, memory=memory, records=records)

    return app_of(node)


@dataclass(frozen=True)
class Places:
    """The tasks of a run, and the folders that it uses.

    Attributes:
        out: Folder for results.json and report.html (run config ``out``).
        compare: Whether to compare methods first (``compare``).
        state: State folder of the deletion service whose requests are then processed; None for none
            (``state``).
        idle_s: Time in seconds without a due request after which the run ends (``idle-s``).
    """

    out: Path
    compare: bool
    state: Path | None
    idle_s: float


def make_server(folder: Path, run: Callable[[LoadedScenario, Open, Places], None]) -> ServerApp:
    """Build the ServerApp of the scenarios in a folder.

    A run that fails writes ``failure.txt``, which holds one line, into the folder for results.

    Args:
        folder: Folder of the scenarios.
        run: Called with the scenario, the function that opens its federation, and the folders and
            tasks that the run config names.

    Returns:
        The app.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        config = context.run_config
        out = Path(str(config["out"]) or "out")
        out.mkdir(parents=True, exist_ok=True)
        places = Places(
            out=out,
            compare=bool(config["compare"]),
            state=Path(str(config["state"])) if config["state"] else None,
            idle_s=_number(config, "idle-s", math.inf),
        )

        def opened(nodes: int, model: nn.Module, /, *, refused: Collection[int] = ()) -> Federation:
            return open_federation(
                grid,
                nodes,
                progress=Silent(),
                layout=ParameterLayout.of(model),
                network=NetworkDigest.of(model),
                sessions=session_settings(config),
                journal=Journal(Path(str(config["job"]))) if config["job"] else None,
                on_fault=on_fault(config),
                refused=refused,
            )

        try:
            run(_scenario(folder, config), opened, places)
        except FedunlearnError as error:
            (out / FAILURE).write_text(f"{error}\n", encoding="utf-8")
            raise

    return app


def _scenario(folder: Path, config: Mapping[str, object]) -> LoadedScenario:
    changes = [line for line in str(config["set"]).splitlines() if line.strip()]
    return load_scenario(folder / str(config["scenario"]), changes)


def on_fault(config: Mapping[str, object]) -> OnFault:
    """Read the run config's ``on-fault``.

    Returns:
        The rule for a job in which a node fails.

    Raises:
        ScenarioError: The value is neither abort nor drop.
    """
    try:
        return OnFault(str(config["on-fault"]))
    except ValueError:
        raise ScenarioError(f"on-fault: use one of {', '.join(OnFault)}") from None


def session_settings(config: Mapping[str, object]) -> SessionSettings:
    """Read the run config's keys that begin with ``session-``.

    Returns:
        The settings.

    Raises:
        ScenarioError: A value cannot be used.
    """
    payload, on_loss = str(config["session-payload"]), str(config["session-on-loss"])
    if payload not in PAYLOADS:
        raise ScenarioError(f"session-payload: use one of {', '.join(PAYLOADS)}")
    if on_loss not in ("wait", "abort"):
        raise ScenarioError("session-on-loss: use wait or abort")
    return SessionSettings(
        endpoint=Endpoint(
            listen=str(config["session-listen"]),
            port=int(_number(config, "session-port", 65535)),
            reach=str(config["session-reach"]) or None,
        ),
        join_s=_number(config, "session-join-s", math.inf),
        connect_s=_number(config, "session-connect-s", math.inf),
        payload=PAYLOADS[payload],
        on_loss="wait" if on_loss == "wait" else "abort",
    )


def _number(config: Mapping[str, object], key: str, most: float) -> float:
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ScenarioError(f"{key}: must be a number from 0 to {most:g}")
    return value
