"""``fedunlearn work``: the worker that removes what the deletion service was asked to remove."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedunlearn.cli.scenarios import Transport, overrides_option
from fedunlearn.cli.serve import database_option, state_option
from fedunlearn.errors import FedunlearnError

if TYPE_CHECKING:
    from fedunlearn.worker.worker import Worked


@click.command()
@click.argument("scenario", type=click.Path(path_type=Path), metavar="SCENARIO.toml")
@state_option
@database_option
@overrides_option
@click.option(
    "--transport",
    type=click.Choice(["inline", "flower"]),
    default="flower",
    show_default=True,
    help="Nodes in this process, or on Flower's simulation engine.",
)
@click.option(
    "--once",
    is_flag=True,
    help="End when nothing is due, instead of waiting for more; status 1 if some was not removed.",
)
@click.option("--name", help="Of this worker, in events; left out, the machine's.")
def work(
    scenario: Path,
    state: Path,
    database: str | None,
    overrides: tuple[str, ...],
    transport: Transport,
    once: bool,
    name: str | None,
) -> None:
    """Remove what is due: one line for each job.

    Trains the scenario's model first, where the state folder has none. The scenario's first method
    removes. Gates and retention: worker.toml in the state folder.
    """
    from fedunlearn.cli.progress import terminal_progress
    from fedunlearn.lab.simulated_work import work_simulated
    from fedunlearn.operator.worker_loop import WorkPlace
    from fedunlearn.requests.deletion import State
    from fedunlearn.scenario.loading import load_scenario
    from fedunlearn.service.state import open_state

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    loaded = load_scenario(scenario, overrides)
    left: set[str] = set()

    def tell(worked: Worked) -> None:
        left.update(worked.deletions)
        if worked.state is State.SUCCEEDED:
            left.difference_update(worked.deletions)
        line = f"{', '.join(worked.deletions)}: {worked.state}"
        click.echo(f"{line}: {worked.reason}" if worked.reason else line)

    with open_state(state, database) as opened, _stopping() as stop, terminal_progress() as bars:
        place = WorkPlace(
            folder=state,
            store=opened.store,
            issuer=opened.issuer,
            name=name or socket.gethostname(),
            idle_s=0.0 if once else None,
            stop=stop,
            tell=tell,
        )
        work_simulated(loaded, place, transport=transport, progress=bars)
        left.update(one.id for one in opened.store.list(states=(State.RUNNING,), limit=1000))
    if once:
        _require_none(left)


def _require_none(left: Collection[str]) -> None:
    """Have the command fail where requests are left that were not removed.

    Raises:
        FedunlearnError: Some are.
    """
    if left:
        were = "request was" if len(left) == 1 else "requests were"
        raise FedunlearnError(f"{len(left)} {were} not removed; 'fedunlearn request' says why")


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """On SIGTERM end after the job at hand; on Ctrl-C at once, and the job goes on later.

    Yields:
        Set when the worker is to end.
    """
    stop = threading.Event()

    def interrupt(number: int, frame: object) -> None:
        stop.set()
        raise KeyboardInterrupt("what was begun goes on when the worker starts again")

    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: stop.set()),
        signal.SIGINT: signal.signal(signal.SIGINT, interrupt),
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
