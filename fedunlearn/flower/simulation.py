"""Simulated federations, on Flower's engine or in this process."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, TypeVar

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedunlearn.errors import FederationError
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.inline_federation import open_inline
from fedunlearn.flower.client_app import NodesOfProcess, TaskCarrier, make_client_app
from fedunlearn.flower.descendants import ended_on_failure
from fedunlearn.flower.server_app import make_server_app
from fedunlearn.networks import NetworkDigest, build_model
from fedunlearn.parameters import ParameterLayout
from fedunlearn.progress import Progress, Silent
from fedunlearn.risk.task import Task

RAY_ENDS_S = 30.0

T = TypeVar("T")
TransportName = Literal["inline", "flower"]


def simulate(
    task: Task,
    nodes: int,
    body: Callable[[Federation], T],
    *,
    transport: TransportName = "inline",
    progress: Progress | None = None,
    records: Path | None = None,
    refused: Collection[int] = (),
) -> T:
    """Open a simulated federation, run a function in it, and close it.

    Args:
        task: The task on which every node computes.
        nodes: Number of nodes.
        body: Function that is called with the federation; its result or exception is passed on.
        transport: ``inline`` calls the nodes in this process; ``flower`` starts Flower's simulation
            engine with one worker process per core.
        progress: Progress display, which is updated after every round.
        records: Folder that contains one folder per node for its commitments and tombstones.
        refused: Nodes that have left.

    Returns:
        The result of ``body``.
    """
    listener = progress or Silent()
    model = build_model(task.model)
    layout, network = ParameterLayout.of(model), NetworkDigest.of(model)
    if transport == "inline":
        here = NodesOfProcess(TaskCarrier(task, records), nodes)
        with open_inline(
            here, progress=listener, layout=layout, network=network, refused=refused
        ) as federation:
            return body(federation)
    stop = threading.Event()
    staying = nodes - len(set(refused) & set(range(nodes)))

    def server_app(body: Callable[[Federation], None]) -> ServerApp:
        return make_server_app(
            staying,
            body,
            progress=listener,
            layout=layout,
            network=network,
            stop=stop,
            refused=refused,
        )

    return _on_engine(make_client_app(task, records), server_app, nodes, body, listener, stop)


def _on_engine(
    client_app: ClientApp,
    server_app: Callable[[Callable[[Federation], None]], ServerApp],
    nodes: int,
    body: Callable[[Federation], T],
    progress: Progress,
    stop: threading.Event,
) -> T:
    outcome: list[T] = []
    failure: list[BaseException] = []
    started, done = threading.Event(), threading.Event()
    starting = ExitStack()
    starting.enter_context(progress.piece("starting nodes", 1))

    def guarded(federation: Federation) -> None:
        # The engine would log a ServerApp's exception with its traceback, so none is raised here.
        started.set()
        try:
            progress.advance()
            starting.close()
            outcome.append(body(federation))
        except BaseException as error:
            failure.append(error)
        finally:
            done.set()

    def interrupted() -> None:
        stop.set()
        if started.is_set():
            done.wait(timeout=10.0)
        starting.close()

    run_engine(server_app(guarded), client_app, nodes, interrupted)
    if failure:
        raise failure[0]
    return outcome[0]


def run_engine(
    server_app: ServerApp,
    client_app: ClientApp,
    nodes: int,
    interrupted: Callable[[], None] = lambda: None,
) -> None:
    """Run apps on Flower's engine, one worker process per core, until the ServerApp ends.

    Args:
        server_app: An app that raises no exception, since the engine would log the traceback.
        client_app: The app of every node.
        nodes: Number of nodes.
        interrupted: Called where the engine fails or is interrupted, before its processes end.

    Raises:
        FederationError: The engine fails.
        BaseException: The exception that interrupted it.
    """
    # Each worker computes on one core; otherwise every process would start one thread per core.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Ray's handler in C++ would report a crash on SIGTERM, and crash.
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    with _quiet_flower(), ended_on_failure(), _own_sigterm_handler():
        from flwr.simulation import run_simulation

        try:
            run_simulation(
                server_app,
                client_app,
                num_supernodes=nodes,
                backend_config={
                    "init_args": {"logging_level": logging.ERROR, "log_to_driver": False},
                    "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
                },
            )
        except BaseException as error:
            interrupted()
            if isinstance(error, RuntimeError):  # the engine raises it for all of its failures
                raise FederationError(f"Flower's simulation failed: {error.__cause__}") from error
            raise


@contextmanager
def _own_sigterm_handler() -> Iterator[None]:
    """Preserve this process's handler of SIGTERM, where Ray would exit at once.

    Ray installs its own handler where it starts in the main thread. Here it starts in another,
    before Flower would start it. A process without a handler leaves Ray's in place, which ends
    Ray's processes.

    Raises:
        FederationError: Ray does not start.
    """
    has_handler = callable(signal.getsignal(signal.SIGTERM))
    if not has_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    started, over = threading.Event(), threading.Event()
    failure: list[Exception] = []

    def run() -> None:
        try:
            _start_ray()
        except Exception as error:
            failure.append(error)
        started.set()
        # Ray's processes end with the thread that started them: PR_SET_PDEATHSIG of prctl(2).
        over.wait()
        _stop_ray()

    thread = threading.Thread(target=run, name="ray", daemon=True)
    thread.start()
    try:
        started.wait()
        if failure:
            raise FederationError(f"Flower's simulation failed: {failure[0]}") from failure[0]
        yield
    finally:
        over.set()
        thread.join(RAY_ENDS_S)


def _start_ray() -> None:
    """Start Ray as Flower does, with processes that can import what this one can."""
    import ray

    if ray.is_initialized():
        return
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [*sys.path, *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)


def _stop_ray() -> None:
    import ray

    if ray.is_initialized():
        ray.shutdown()


@contextmanager
def _quiet_flower() -> Iterator[None]:
    """Suppress Flower's own log output.

    This includes its errors: a node's failure reaches the caller as an exception, and Flower would
    also print its traceback. After an interrupt Flower's threads still log errors, so the level is
    not restored.
    """
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except Exception:
        logger.setLevel(level)
        raise
    logger.setLevel(level)
