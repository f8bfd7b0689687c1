"""A node behind a slow link holds a round up for as long as its bytes take, and no longer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from fedunlearn.federation.accounting import MeterStack
from fedunlearn.federation.transport.session import SessionTransport
from fedunlearn.federation.transport.session_server import SessionServer
from tests.benchmarks.echo import Echo, timed_round
from tests.federations import join

RATE = 8e6  # bytes a second, each way
SIZE = 500_000  # floats: 4 MB down, 2 MB up
ROUNDS = 3


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Pass bytes on, no faster than the link."""
    with suppress(OSError):
        while piece := source.recv(2**14):
            time.sleep(len(piece) / RATE)
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def slow_link(address: str) -> Iterator[str]:
    """Listen on the loopback interface for one connection to an address, and slow it down."""
    host, _, port = address.rpartition(":")
    with socket.create_server((host, 0)) as listener:

        def run() -> None:
            near, _ = listener.accept()
            with near, socket.create_connection((host, int(port))) as far:
                back = threading.Thread(target=pump, args=(far, near))
                back.start()
                pump(near, far)
                back.join(30.0)

        thread = threading.Thread(target=run)
        thread.start()
        yield f"{host}:{listener.getsockname()[1]}"
        thread.join(30.0)
        assert not thread.is_alive()


def test_the_time_of_a_basis_is_that_of_its_bytes() -> None:
    server, meters = SessionServer(range(3)), MeterStack()
    with slow_link(server.address) as slow:
        threads = []
        for node in range(3):
            invitation = server.invite(node)
            if node == 1:
                invitation = replace(invitation, address=slow)
            threads.append(join(invitation, Echo(node)))
        assert server.wait(30.0) == ()
        transport = SessionTransport(server, meters)
        seconds = sum(timed_round(transport, range(3), SIZE, n) for n in range(ROUNDS))
        server.close()
        for thread in threads:
            thread.join(30.0)
    explained = ROUNDS * (2 + 1) * 4 * SIZE / RATE
    # Sleeps that last a little too long, and other work, are the rest.
    assert 0.9 * explained < seconds < 2.0 * explained
