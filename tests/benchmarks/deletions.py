"""Durable CreateDeletion calls a second, with 8 callers on the same cores as the service.

The service is the real command. Run as a program this is one process of callers.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROCESSES, THREADS = 2, 4
SECONDS, WARM_UP_S = 6.0, 1.0
OWNERS = 8
RECORDS = 1024
MODEL = "5e" * 32

BOUNDS = {"deletions.per_second": ">= 500", "deletions.p99_ms": "<= 100"}


def deletions() -> Mapping[str, object]:
    """Return the rate and the slowest hundredth."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        _prepare(state)
        command = [str(Path(sys.executable).with_name("fedunlearn")), "serve"]
        with subprocess.Popen(
            [*command, "--state", str(state), "--listen", "127.0.0.1:0"],
            stdout=subprocess.PIPE,
            text=True,
        ) as service:
            try:
                assert service.stdout is not None
                address = service.stdout.readline().split()[2]
                seconds = _called(state, address)
                service.send_signal(signal.SIGTERM)
                assert service.wait(20.0) == 0
            finally:
                service.kill()
        stored = _stored(state)
    assert stored >= len(seconds), "what was acknowledged is not there"
    seconds.sort()
    return {
        "deletions": {
            "per_second": len(seconds) / SECONDS,
            "p50_ms": 1000 * seconds[len(seconds) // 2],
            "p99_ms": 1000 * seconds[int(0.99 * len(seconds))],
            "callers": PROCESSES * THREADS,
        }
    }


def _prepare(state: Path) -> None:
    from datetime import UTC, datetime

    from fedunlearn.commitments import Commitments
    from fedunlearn.requests.keys import PrivateKey
    from fedunlearn.service.state import open_state

    state.mkdir()
    (state / "service.toml").write_text("quota-open = 1000000\nquota-per-day = 1000000\n")
    now = datetime.now(UTC)
    with open_state(state) as opened:
        opened.store.set_first(MODEL, now=now)
        for owner in range(OWNERS):
            key = PrivateKey.generate("ed25519" if owner % 2 else "p256")
            key.write(state / f"owner-{owner}.key")
            opened.store.register_key(f"owner {owner}", "owner", key.public, [str(owner)], now=now)
            records = (f"{owner}/{place}".encode() for place in range(RECORDS))
            commitments = Commitments.of(bytes([owner]) * 32, records)
            commitments.save(state / f"owner-{owner}.commitments")
            opened.store.register_commitment(str(owner), commitments.registered, now=now)


def _called(state: Path, address: str) -> list[float]:
    command = [sys.executable, "-m", "tests.benchmarks.deletions", str(state), address]
    begins = str(time.time() + 3.0)  # processes take a second to start
    callers = [
        subprocess.Popen(
            [*command, str(number), begins], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for number in range(PROCESSES)
    ]
    try:
        outputs = [caller.communicate(timeout=60.0)[0] for caller in callers]
        assert all(caller.returncode == 0 for caller in callers)
    finally:
        for caller in callers:
            caller.kill()
    return [seconds for output in outputs for seconds in json.loads(output)]


def _stored(state: Path) -> int:
    import sqlite3

    connection = sqlite3.connect(state / "requests.db")
    try:
        (count,) = connection.execute("SELECT count(*) FROM deletions").fetchone()
    finally:
        connection.close()
    return int(count)


def be_callers(state: Path, address: str, number: int, begins: float) -> list[float]:
    """Ask, in several threads, and return how long each call took."""
    from fedunlearn.commitments import Commitments
    from fedunlearn.requests.keys import PrivateKey
    from fedunlearn.requests.statement import record_scope
    from fedunlearn.service.client import DeletionClient

    took: list[float] = []

    def ask(owner: int) -> None:
        key = PrivateKey.read(state / f"owner-{owner}.key")
        commitments = Commitments.load(state / f"owner-{owner}.commitments")
        with DeletionClient(address, key, plaintext=True) as client:
            client.info()
            record = 0
            while time.time() < begins + WARM_UP_S + SECONDS:
                scope = record_scope(str(owner), commitments, [record % RECORDS])
                record += 1
                started = time.perf_counter()
                client.create(scope, model=MODEL, request_id=str(uuid.uuid4()))
                if begins + WARM_UP_S <= time.time() < begins + WARM_UP_S + SECONDS:
                    took.append(time.perf_counter() - started)

    threads = [
        threading.Thread(target=ask, args=(number * THREADS + place,)) for place in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took


def main() -> None:
    """Be one process of callers."""
    state, address, number, begins = sys.argv[1:]
    print(json.dumps(be_callers(Path(state), address, int(number), float(begins))))


if __name__ == "__main__":
    main()
