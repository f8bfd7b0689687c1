"""What a round takes by each way: three nodes that compute nothing, by floats in a vector.

Run as a program it is one of the nodes: session and stream have theirs in processes of their own.
Messages go over a deployment of Flower on the loopback interface, one round of each size.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fedunlearn.federation.accounting import MeterStack
from fedunlearn.federation.transport.inline import InlineTransport
from fedunlearn.federation.transport.session import SessionTransport
from fedunlearn.federation.transport.session_server import SessionServer
from fedunlearn.node.session_client import attend
from fedunlearn.questions.invitation import Invitation
from tests.benchmarks import bare_stream
from tests.benchmarks.echo import Echo, timed_round

ROOT = Path(__file__).parents[2]
NODES = 3
SIZES = (1_000, 1_000_000, 11_000_000)
ROUNDS = {1_000: 101, 1_000_000: 15, 11_000_000: 5}

BOUNDS = {
    "session_over_stream.1000000": "<= 2",
    "session_over_stream.11000000": "<= 2",
    "messages_over_session.1000": ">= 100",
}


def round_seconds() -> Mapping[str, object]:
    """Return medians, and the ratios that matter, of rounds that took turns."""
    with _session() as session, _stream(tls=True) as stream, _stream(tls=False) as plain:
        inline = InlineTransport({n: Echo(n) for n in range(NODES)})
        ways: dict[str, Callable[[int, int], float]] = {
            "inline": lambda size, n: timed_round(inline, range(NODES), size, n),
            "session": lambda size, n: timed_round(session, range(NODES), size, n),
            "stream": lambda size, n: _timed(lambda: stream.round(size)),
            "stream_without_tls": lambda size, n: _timed(lambda: plain.round(size)),
        }
        seconds = {way: {str(size): 0.0 for size in SIZES} for way in ways}
        over: dict[str, dict[str, float]] = {"stream": {}, "stream_without_tls": {}}
        for size in SIZES:
            times: dict[str, list[float]] = {way: [] for way in ways}
            for number in range(-1, ROUNDS[size]):
                for way, work in ways.items():
                    took = work(size, number + 1)
                    if number >= 0:  # the first warms everything up
                        times[way].append(took)
            for way, took_of_way in times.items():
                seconds[way][str(size)] = statistics.median(took_of_way)
            for way, ratios in over.items():
                pairs = zip(times["session"], times[way], strict=True)
                ratios[str(size)] = statistics.median(a / b for a, b in pairs)
    seconds["messages"] = _messages()
    less = {size: seconds["messages"][size] / took for size, took in seconds["session"].items()}
    return {
        "round_seconds": seconds,
        "session_over_stream": over["stream"],
        "session_over_stream_without_tls": over["stream_without_tls"],
        "messages_over_session": less,
    }


def _timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@contextmanager
def _processes(orders: list[Mapping[str, object]]) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.benchmarks.round_seconds"]
    running = [subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT) for _ in orders]
    try:
        for process, order in zip(running, orders, strict=True):
            assert process.stdin is not None
            process.stdin.write(json.dumps(order).encode() + b"\n")
            process.stdin.close()
        yield
        for process in running:
            process.wait(30.0)
    finally:
        for process in running:
            process.kill()
            process.wait()


@contextmanager
def _session() -> Iterator[SessionTransport]:
    server = SessionServer(range(NODES))
    orders = []
    for node in range(NODES):
        invitation = server.invite(node)
        orders.append(
            {
                "node": node,
                "address": invitation.address,
                "token": invitation.token,
                "certificate": invitation.certificate.decode(),
            }
        )
    with _processes(orders):
        assert server.wait(60.0) == ()
        yield SessionTransport(server, MeterStack())
        server.close()


@contextmanager
def _stream(*, tls: bool) -> Iterator[bare_stream.BareServer]:
    server = bare_stream.BareServer(NODES, tls=tls)
    trusted = server.certificate.certificate.decode() if server.certificate else None
    with _processes([{"bare": server.address, "certificate": trusted}] * NODES):
        server.wait()
        yield server
        server.close()


def _messages() -> dict[str, float]:
    sys.path.insert(0, str(ROOT / "simulations" / "deployment"))
    from deploy import deployed  # type: ignore[import-not-found]

    from fedunlearn.flower.descendants import ended_afterwards

    names = [f"node-{number}" for number in range(NODES)]
    with tempfile.TemporaryDirectory() as out, ended_afterwards():
        folder = Path(out)
        with deployed(names, folder / "logs", search=ROOT) as deployment:
            config = {"out": out, "sizes": ",".join(map(str, SIZES))}
            app = Path(__file__).with_name("round_app")
            found: dict[str, float] = deployment.run(folder, config, 400.0, app=app)
    return found


def main() -> None:
    """Be a node."""
    order = json.loads(sys.stdin.readline())
    if "bare" in order:
        trusted = order["certificate"]
        bare_stream.attend(order["bare"], trusted.encode() if trusted else None)
        return
    certificate = order["certificate"].encode()
    invitation = Invitation(order["node"], order["address"], order["token"], certificate)
    attend(Echo(order["node"]), invitation, connect_s=30.0)


if __name__ == "__main__":
    main()
