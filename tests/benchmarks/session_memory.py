"""The server's memory with 8 and with 64 nodes at once: it must not follow their number.

Run as a program it is that server, or all the nodes as threads of one process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

SIZE = 100_000
ROUNDS = 5
FEW, MANY = 8, 64
ROOT = Path(__file__).parents[2]

BOUNDS = {"session_memory.many_over_few": "<= 1.2"}


def session_memory() -> Mapping[str, object]:
    """Return peaks of fresh server processes, in MiB, and their ratio."""
    peaks = {nodes: _measured(nodes) for nodes in (FEW, MANY)}
    named = {f"server_peak_mib_{nodes}_nodes": peak for nodes, peak in peaks.items()}
    return {"session_memory": named | {"many_over_few": peaks[MANY] / peaks[FEW]}}


def _measured(nodes: int) -> float:
    command = [sys.executable, "-m", "tests.benchmarks.session_memory"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    with (
        subprocess.Popen([*command, "server", str(nodes)], **pipes) as server,  # type: ignore[call-overload]
        subprocess.Popen([*command, "nodes"], **pipes) as peers,  # type: ignore[call-overload]
    ):
        try:
            peers.stdin.write(server.stdout.readline())
            peers.stdin.close()
            peak = float(server.stdout.readline())
            assert server.wait(60.0) == 0 and peers.wait(60.0) == 0
        finally:
            server.kill()
            peers.kill()
    return peak


def be_server(nodes: int) -> None:
    """Invite, run the rounds, print the peak; every round must be complete."""
    import torch

    from fedunlearn.federation.accounting import MeterStack
    from fedunlearn.federation.objective import FederatedObjective
    from fedunlearn.federation.transport.session import SessionTransport
    from fedunlearn.federation.transport.session_server import SessionServer
    from fedunlearn.progress import Silent
    from fedunlearn.questions.forget import ForgetSet
    from fedunlearn.risk.products import Curvature
    from tests.benchmarks.peak import peak_mib

    torch.set_num_threads(1)
    server = SessionServer(range(nodes))
    invited = [server.invite(node) for node in range(nodes)]
    orders = [(i.node, i.address, i.token, i.certificate.decode()) for i in invited]
    print(json.dumps(orders), flush=True)
    assert server.wait(120.0) == ()
    meters = MeterStack()
    objective = FederatedObjective(
        SessionTransport(server, meters),
        tuple(range(nodes)),
        ForgetSet.of_nodes(),
        weight_decay=0.0,
        meters=meters,
        progress=Silent(),
        deadline_s=60.0,
    )
    point = torch.arange(SIZE, dtype=torch.float32)
    for _ in range(ROUNDS):
        product = objective.products(point, point[None], Curvature.GGN)[0]
        # Every node holds one example and echoes the vector.
        assert objective.retained == nodes and torch.equal(product, point)
    print(peak_mib(), flush=True)
    server.close()


def be_nodes() -> None:
    """Be everybody that is invited."""
    from fedunlearn.node.session_client import attend
    from fedunlearn.questions.invitation import Invitation
    from tests.benchmarks.echo import Echo

    threads = []
    for node, address, token, certificate in json.loads(sys.stdin.readline()):
        invitation = Invitation(node, address, token, certificate.encode())
        thread = threading.Thread(
            target=attend, args=(Echo(node), invitation), kwargs={"connect_s": 120.0}
        )
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join()
    # gRPC's own threads are daemons; Python may abort where it ends while they still run.
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(30.0)


if __name__ == "__main__":
    be_server(int(sys.argv[2])) if sys.argv[1] == "server" else be_nodes()
