"""``fedunlearn work``: the worker that carries out the requests of the deletion service."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedunlearn.cli.lab_options import overrides_option
from fedunlearn.cli.scenarios import Transport
from fedunlearn.cli.serve import database_option, state_option
from fedunlearn.errors import FedunlearnError

if TYPE_CHECKING:
    from fedunlearn.scenario.loading import LoadedScenario
    from fedunlearn.service.state import ServiceState
    from fedunlearn.worker.worker import Worked


@click.command()
@click.argument(
    "scenario", type=click.Path(path_type=Path), metavar="[SCENARIO.toml]", required=False
)
@click.option(
    "--app",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Use the Flower app in this folder instead of a scenario.",
)
@click.option(
    "--connection",
    metavar="NAME",
    help="With --app: run it by 'flwr run' on this SuperLink connection, not in the simulation.",
)
@click.option(
    "--nodes",
    type=click.IntRange(min=2),
    help="With --app, in the simulation: number of nodes that train the first model (10).",
)
@state_option
@database_option
@overrides_option
@click.option(
    "--transport",
    type=click.Choice(["inline", "flower"]),
    default="flower",
    show_default=True,
    help="Run nodes in this process, or on Flower's simulation engine.",
)
@click.option(
    "--once",
    is_flag=True,
    help="Exit when no request is due; status 1 if a request was not removed.",
)
@click.option("--name", help="Name of this worker in events; by default, the machine's name.")
def work(
    scenario: Path | None,
    app: Path | None,
    connection: str | None,
    nodes: int | None,
    state: Path,
    database: str | None,
    overrides: tuple[str, ...],
    transport: Transport,
    once: bool,
    name: str | None,
) -> None:
    """Carry out due requests in a scenario's simulation or, with --app, a Flower app.

    Prints one line for each job. If the state folder has no model, the first model is trained
    before. The method is the scenario's first, or the one in [tool.fedunlearn] of the app's
    pyproject.toml. Gates and retention are set in worker.toml in the state folder.
    """
    from fedunlearn.requests.deletion import State
    from fedunlearn.service.state import open_state

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    run = _runner(scenario, app, connection, nodes, overrides, transport, once, name, database)
    left: set[str] = set()

    def print_job(worked: Worked) -> None:
        left.update(worked.deletions)
        if worked.state is State.SUCCEEDED:
            left.difference_update(worked.deletions)
        line = f"{', '.join(worked.deletions)}: {worked.state}"
        click.echo(f"{line}: {worked.reason}" if worked.reason else line)

    with open_state(state, database) as opened, _stopping() as stop:
        if opened.store.current() is None:
            click.echo("training the first model")
        run(opened, stop, print_job)
        left.update(one.id for one in opened.store.list(states=(State.RUNNING,), limit=1000))
    if once:
        _require_none(left)


Run = Callable[["ServiceState", threading.Event, Callable[["Worked"], None]], None]


def _runner(
    scenario: Path | None,
    app: Path | None,
    connection: str | None,
    nodes: int | None,
    overrides: tuple[str, ...],
    transport: Transport,
    once: bool,
    name: str | None,
    database: str | None,
) -> Run:
    """Return the function that runs the worker in a scenario or an app, after reading its files.

    Raises:
        UsageError: Both or neither are given, or an option belongs to the other one.
    """
    if (scenario is None) == (app is None):
        raise click.UsageError("name a scenario, or a Flower app by --app DIR")
    if app is not None:
        if overrides:
            raise click.UsageError("--set belongs to a scenario; an app has its own run config")
        return _in_app(app, connection, nodes, once, database)
    if connection is not None or nodes is not None:
        raise click.UsageError("--connection and --nodes belong to --app")
    assert scenario is not None  # for the type checker
    from fedunlearn.scenario.loading import load_scenario

    return _in_scenario(load_scenario(scenario, overrides), transport, once, name)


def _in_app(
    folder: Path, connection: str | None, nodes: int | None, once: bool, database: str | None
) -> Run:
    from fedunlearn.operator.app_folder import AppFolder

    app = AppFolder.read(folder.resolve())
    app.method()  # an unknown method or setting is reported before the worker starts

    def run(state: ServiceState, stop: threading.Event, report: Callable[[Worked], None]) -> None:
        from fedunlearn.operator.app_removals import AppRemovals
        from fedunlearn.operator.app_worker import AppWorker

        worker = AppWorker(AppRemovals(app, state, report=report, stop=stop), once, database)
        if connection is None:
            worker.simulated(nodes)
        else:
            worker.deployed(connection)

    return run


def _in_scenario(loaded: LoadedScenario, transport: Transport, once: bool, name: str | None) -> Run:
    def run(state: ServiceState, stop: threading.Event, report: Callable[[Worked], None]) -> None:
        from fedunlearn.cli.progress import terminal_progress
        from fedunlearn.lab.simulated_work import work_simulated
        from fedunlearn.operator.worker_loop import WorkPlace

        with terminal_progress() as bars:
            place = WorkPlace(
                folder=state.folder,
                store=state.store,
                issuer=state.issuer,
                name=name or socket.gethostname(),
                idle_s=0.0 if once else None,
                stop=stop,
                on_job=report,
            )
            work_simulated(loaded, place, transport=transport, progress=bars)

    return run


def _require_none(left: Collection[str]) -> None:
    """Refuse requests that were not removed.

    Raises:
        FedunlearnError: There are such requests.
    """
    if left:
        were = "request was" if len(left) == 1 else "requests were"
        raise FedunlearnError(
            f"{len(left)} {were} not removed; 'fedunlearn request get' shows the reason"
        )


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Stop after the current job on SIGTERM, and at once on Ctrl-C; the job is resumed later.

    Yields:
        An event that is set when the worker is to stop.
    """
    stop = threading.Event()

    def interrupt(number: int, frame: object) -> None:
        stop.set()
        raise KeyboardInterrupt("unfinished work is resumed when the worker starts again")

    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: stop.set()),
        signal.SIGINT: signal.signal(signal.SIGINT, interrupt),
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
