"""The ServerApp, which enrols the nodes and passes the federation to its task."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from functools import partial

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedunlearn.federation.accounting import MeterStack
from fedunlearn.federation.federation import Federation, OnFault
from fedunlearn.federation.journal import Journal
from fedunlearn.flower.messages import MessageTransport, enrol
from fedunlearn.flower.metered_grid import MeteredGrid
from fedunlearn.flower.removed_examples import record_tombstones
from fedunlearn.flower.sessions import SessionOrMessages, SessionSettings
from fedunlearn.flower.training import FedAvgTrainer
from fedunlearn.networks import NetworkDigest
from fedunlearn.parameters import ParameterLayout
from fedunlearn.progress import Progress

Body = Callable[[Federation], None]


def open_federation(
    grid: Grid,
    nodes: int,
    *,
    progress: Progress,
    layout: ParameterLayout | None = None,
    network: NetworkDigest | None = None,
    stop: threading.Event | None = None,
    deadline_s: float = 600.0,
    sessions: SessionSettings | None = None,
    journal: Journal | None = None,
    on_fault: OnFault = OnFault.ABORT,
    refused: Collection[int] = (),
) -> Federation:
    """Enrol the nodes of a grid.

    Args:
        grid: A grid of Flower, of any kind.
        nodes: Number of nodes that must be connected, besides those refused.
        progress: Progress display, which is updated after every round.
        layout: Layout of the model's tensors, for methods that distinguish layers.
        network: The server's own network, where it has the Task; nodes with another are refused.
        stop: Event that ends every wait.
        deadline_s: Seconds for enrolment and for each round.
        sessions: Settings of sessions over streams, for rounds other than training's; None for
            messages.
        journal: Stores what is finished, so that a later run can resume after this one was killed.
        on_fault: The rule for a removal in which a node fails.
        refused: Nodes that have left. They are sent nothing, whatever they enrol as.

    Returns:
        The federation, ready to train and to answer; closing it ends the session.
    """
    meters = MeterStack()
    metered = MeteredGrid(grid, meters, stop)
    enrolled = enrol(metered, nodes, deadline_s=deadline_s, refused=refused, network=network)
    here = {number: found for number, found in enrolled.items() if not found[1].left}
    addresses = {number: address for number, (address, _) in here.items()}
    messages = MessageTransport(metered, addresses)
    session = SessionOrMessages(metered, addresses, sessions, stop) if sessions else None
    close = session.close if session else _nothing
    return Federation(
        examples={number: enrolment.examples for number, (_, enrolment) in here.items()},
        transport=session or messages,
        trainer=FedAvgTrainer(metered, addresses, deadline_s=deadline_s, before=close),
        meters=meters,
        progress=progress,
        layout=layout,
        deadline_s=deadline_s,
        journal=journal,
        on_fault=on_fault,
        enrolments={number: enrolment for number, (_, enrolment) in here.items()},
        send_tombstones=partial(record_tombstones, metered, addresses, deadline_s=deadline_s),
        close=close,
    )


def _nothing() -> None:
    """Do nothing, where there is nothing to close."""


def make_server_app(
    nodes: int,
    body: Body,
    *,
    progress: Progress,
    layout: ParameterLayout | None = None,
    network: NetworkDigest | None = None,
    stop: threading.Event | None = None,
    sessions: SessionSettings | None = None,
    refused: Collection[int] = (),
) -> ServerApp:
    """Build a ServerApp that runs ``body`` once all nodes are enrolled."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        with open_federation(
            grid,
            nodes,
            progress=progress,
            layout=layout,
            network=network,
            stop=stop,
            sessions=sessions,
            refused=refused,
        ) as federation:
            body(federation)

    return app
