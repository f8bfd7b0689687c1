"""Runs a deletion from request to receipt and dies at every durable write: see test_kill_points.

A process of its own, without threads, so that it can fork: every run is a child that starts the
service, files a request over gRPC, approves it, and works. The durable writes are found by wrapping
what makes them: transactions of the store, ``fsync``, ``replace``, ``link`` and ``unlink``. A child
kills itself with SIGKILL before or after one of them; another one goes on with what is there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch

from fedunlearn.operator.worker_loop import MODELS, NODES
from fedunlearn.requests.database import Database
from fedunlearn.requests.deletion import State
from fedunlearn.requests.keys import PrivateKey
from fedunlearn.requests.ledger import verify_ledger
from fedunlearn.rpc.v1 import deletion_pb2 as pb
from fedunlearn.service.client import DeletionClient
from fedunlearn.service.server import DeletionServer
from fedunlearn.service.service_settings import ServiceSettings
from fedunlearn.service.state import ServiceState, open_state
from tests.workplaces import FEDERATION, prepare, scenario, scope, work

LOADED = scenario(**{"recovery-rounds": 1})
GOING_ON = (State.PENDING, State.AWAITING_APPROVAL, State.RUNNING)
# Journal rounds and the like are many of a kind: the first of each kind and the last are killed at.
NUMBER = re.compile(r"\d+|[0-9a-f]{32,}(-[0-9a-f]+)*|[0-9a-f-]{36}")


class Trace:
    """The durable writes of a process, in order; kills it at one of them."""

    def __init__(self, kill_at: int | None) -> None:
        self.points: list[str] = []
        self._kill_at = kill_at

    @contextmanager
    def write(self, what: str) -> Iterator[None]:
        self._point(f"before {what}")
        yield
        self._point(f"after {what}")

    def _point(self, name: str) -> None:
        if len(self.points) == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.points.append(name)


def watch_writes(trace: Trace) -> None:
    """Wrap all that makes something last."""
    lock = threading.RLock()

    def wrapped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(target: Any, *others: Any, **named: Any) -> Any:
            with lock, trace.write(f"{name} {_named(others[0] if others else target)}"):
                return real(target, *others, **named)

        return call

    for name in ("replace", "link"):
        setattr(os, name, wrapped(name, getattr(os, name)))
    for name in ("fsync", "unlink"):
        setattr(os, name, wrapped(name, getattr(os, name)))
    real_rmtree = shutil.rmtree
    shutil.rmtree = wrapped("rmtree", real_rmtree)  # type: ignore[assignment]
    real_write = Database.write

    @contextmanager
    def write(self: Database) -> Iterator[Any]:
        caller = sys._getframe(2).f_code.co_name
        if caller == "renew":  # of a thread that may come at any time
            with real_write(self) as tx:
                yield tx
            return
        with real_write(self) as tx:
            yield tx
            trace._point(f"before transaction {caller}")
        trace._point(f"after transaction {caller}")

    Database.write = write  # type: ignore[assignment,method-assign]


def _named(target: Any) -> str:
    if isinstance(target, int):
        target = os.readlink(f"/proc/self/fd/{target}")
    return NUMBER.sub("N", Path(target).name)


def ask(state: ServiceState, kind: str, request_id: str) -> str:
    """File and approve a request over gRPC; returns its id, once both are acknowledged."""
    settings = ServiceSettings(listen="127.0.0.1:0", federation=FEDERATION, require_approval=True)
    with DeletionServer(state.store, settings) as server:
        address = server.start()
        owner, operator = (
            DeletionClient(address, PrivateKey.read(state.folder / f"{name}.key"), plaintext=True)
            for name in ("owner-1", "operator")
        )
        filed = owner.create(scope(state.folder, kind), request_id=request_id)
        acknowledge(state.folder, filed.id)
        if filed.state == pb.STATE_AWAITING_APPROVAL:
            operator.approve(filed.id)
        owner.close()
        operator.close()
    return filed.id


def acknowledge(folder: Path, id: str) -> None:
    """Note outside of the state folder what the service has acknowledged."""
    with (folder.parent / f"{folder.name}.acknowledged").open("a") as file:
        file.write(f"{id}\n")


def child(body: Callable[[], None]) -> int:
    """Run in a process of its own; returns its exit status, or minus the signal that ended it."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            body()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def story(folder: Path, kind: str, request_id: str, kill_at: int | None, points: Path) -> None:
    """From the request to the receipt."""
    trace = Trace(kill_at)
    with open_state(folder) as state:
        watch_writes(trace)
        ask(state, kind, request_id)
        work(state, LOADED)
    points.write_text(json.dumps(trace.points))


def go_on(folder: Path, kind: str, request_id: str) -> None:
    """What happens when everything is started again: the owner asks again, the worker works.

    By then the lease of the one that was killed has ended.
    """
    with closing(sqlite3.connect(folder / "requests.db")) as database, database:
        database.execute("UPDATE jobs SET until = 0 WHERE ended IS NULL")
    with open_state(folder) as state:
        id = ask(state, kind, request_id)
        end = time.monotonic() + 20.0
        while state.store.get(id).state in GOING_ON and time.monotonic() < end:
            work(state, LOADED)
            time.sleep(0.05)


def found(folder: Path) -> dict[str, Any]:
    """Look at what is there in the end."""
    acknowledged = (folder.parent / f"{folder.name}.acknowledged").read_text().split()
    with open_state(folder, create=False) as state:
        store = state.store
        deletions = store.list(limit=10)
        models = folder / MODELS
        receipts = [store.receipt(deletion.id) for deletion in deletions]
        return {
            "acknowledged": sorted(set(acknowledged)),
            "deletions": [deletion.id for deletion in deletions],
            "states": [deletion.state.value for deletion in deletions],
            "applied": len(store.all_applied()),
            "receipts": sum(receipt is not None for receipt in receipts),
            "current": store.current().sha256,  # type: ignore[union-attr]
            "findings": [str(one) for one in verify_ledger(store, state.issuer.public, models)],
            "left_over": sorted(
                str(path.relative_to(folder))
                for path in folder.rglob("*")
                if path.name.endswith(".part") or "jobs/" in str(path.relative_to(folder))
            ),
            "removed": removed(folder / NODES / "node-1"),
        }


def removed(folder: Path) -> int:
    """Return how many examples, or nodes, a node's own list keeps out."""
    path = folder / "tombstones.json"
    listed = json.loads(path.read_text()) if path.exists() else {"left": [], "removed": {}}
    return len(listed["left"]) + sum(map(len, listed["removed"].values()))


def chosen(points: list[str], kind: str) -> list[int]:
    """Return the first point of every name, and the last where there are several.

    What is durable after a write is the same as before the next one: of kinds but one, only the
    points before a write and after a transaction are chosen.
    """
    first = {name: place for place, name in reversed(list(enumerate(points)))}
    last = {name: place for place, name in enumerate(points)}
    counts = Counter(points)
    places = {*first.values(), *(last[name] for name in points if counts[name] > 1)}
    if kind != "samples":
        wanted = ("before ", "after transaction")
        places = {place for place in places if points[place].startswith(wanted)}
    return sorted(places)


def main() -> None:
    torch.set_num_threads(1)
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    template = folder / "template"
    template.mkdir()
    prepare(template, LOADED)  # in this process: what it loads, the children have
    request_id = "5f0c0a4e-3c52-4f0e-9d56-0e0a3f6f5a11"

    def run(name: str, kill_at: int | None) -> dict[str, Any]:
        state, points = folder / name, folder / f"{name}.points"
        shutil.copytree(template, state)
        (folder / f"{name}.acknowledged").touch()
        status = child(lambda: story(state, kind, request_id, kill_at, points))
        if kill_at is not None:
            assert child(lambda: go_on(state, kind, request_id)) == 0
        report = found(state)
        shutil.rmtree(state)
        return report | {"status": status}

    whole = run("whole", None)
    points = json.loads((folder / "whole.points").read_text())
    results = {"whole": whole}
    for place in chosen(points, kind):
        results[f"{place:03d} {points[place]}"] = run(f"kill-{place}", place)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
