"""A user's app on a deployment whose parties are users of their own: none reads another's data.

The server's user cannot read any node's file (mode 0700), nor can a node another's; training,
removals of records and of a node, gates and receipts go through all the same.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from fedunlearn.requests.keys import PrivateKey
from fedunlearn.requests.receipts import verify_receipt
from fedunlearn.requests.statement import node_scope, record_scope
from fedunlearn.rpc.v1 import deletion_pb2 as pb
from fedunlearn.service.client import DeletionClient
from fedunlearn.service.state import open_state
from tests.tables import ROOT

HOST = "127.0.0.1"
APP = Path(__file__).parent / "file_app"
NODES = ("north", "east", "south")
FIRST_USER = 23100  # of the server; those of the nodes follow
EXAMPLES = 120
PYTHON = Path(sys.executable).resolve()

sys.path.insert(0, str(ROOT / "simulations" / "deployment"))

pytestmark = pytest.mark.timeout(600)


def as_user(user: int, command: Sequence[object]) -> list[str]:
    """Return a command that runs as another user.

    Where the interpreter lies in a folder that only root may enter, as in root's home, the process
    sees that folder, in a mount namespace of its own, with nothing but the interpreter in it.
    """
    plain = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    parts = [str(part) for part in command]
    closed = next((one for one in reversed(PYTHON.parents) if not one.stat().st_mode & 0o001), None)
    if closed is None:
        return [*plain, *parts]
    inside = PYTHON.relative_to(closed).parts[0]
    script = (
        f'view=$(mktemp -d) && mkdir "$view/{inside}" && '
        f'mount --bind "{closed / inside}" "$view/{inside}" && chmod 755 "$view" && '
        f'mount --rbind "$view" "{closed}" && exec "$@"'
    )
    return ["unshare", "--mount", "sh", "-c", script, "sh", *plain, *parts]


def can_be_others() -> bool:
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        return False
    command = as_user(FIRST_USER, [sys.executable, "-c", "pass"])
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


class Party:
    """A user with a folder that nobody else can look into."""

    def __init__(self, folder: Path, name: str, user: int) -> None:
        self.folder = folder / name
        self.user = user
        self.folder.mkdir(mode=0o700)
        os.chown(self.folder, user, user)
        self._running: list[subprocess.Popen[bytes]] = []

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "HOME": str(self.folder),
            "FLWR_HOME": str(self.folder / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        os.chown(path, self.user, self.user)
        path.chmod(0o600)
        return path

    def start(self, name: str, *command: object) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self._running.append(
                subprocess.Popen(
                    as_user(self.user, command),
                    env=self.environment,
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def run(self, *command: object, limit_s: float = 300.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            as_user(self.user, command),
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )

    def stop(self) -> None:
        for process in self._running:
            for number in (15, 9):
                try:
                    os.killpg(process.pid, number)
                except ProcessLookupError:
                    break
                try:
                    process.wait(5.0)
                except subprocess.TimeoutExpired:
                    continue
            process.wait()


class Parties:
    """A server and three nodes, each a user of its own."""

    def __init__(self, folder: Path) -> None:
        from keys import make_keys

        folder.chmod(0o755)
        self.server = Party(folder, "server", FIRST_USER)
        self.nodes = {
            name: Party(folder, name, FIRST_USER + 1 + number) for number, name in enumerate(NODES)
        }
        self.app = folder / "app"
        shutil.copytree(APP, self.app, ignore=shutil.ignore_patterns("__pycache__"))
        made = folder / "keys"
        make_keys(made, [HOST], list(NODES))
        made.chmod(0o755)
        for path in made.iterdir():
            owner = self.nodes.get(path.stem, self.server).user
            os.chown(path, owner, owner)
        self.keys = made
        generator = np.random.default_rng(0)
        weights = generator.normal(size=6)
        for party in self.nodes.values():
            inputs = generator.normal(size=(EXAMPLES, 6))
            labels = (inputs @ weights + 0.3 * generator.normal(size=EXAMPLES) > 0).astype(float)
            rows = np.column_stack([inputs, labels])
            party.write("data.csv", "\n".join(",".join(f"{x:.6g}" for x in r) for r in rows))
        self.state = self.server.folder / "state"

    def start(self) -> None:
        port = free_port()
        server = self.server
        server.start(
            "superlink",
            *("flower-superlink", "--host", HOST, "--port", port),
            *("--ssl-ca-certfile", self.keys / "ca.crt"),
            *("--ssl-certfile", self.keys / "server.crt"),
            *("--ssl-keyfile", self.keys / "server.key"),
            *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
            *("--database", server.folder / "superlink.db"),
        )
        home = server.folder / "flwr"
        home.mkdir(mode=0o700, exist_ok=True)
        os.chown(home, server.user, server.user)
        server.write(
            "flwr/config.toml",
            f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "{HOST}:{port}"\n'
            f'root-certificates = "{self.keys / "ca.crt"}"\n',
        )
        wait_for(port)
        for name in NODES:
            done = server.run(
                *(sys.executable, "-m", "flwr.cli.app", "supernode", "register"),
                *(self.keys / f"{name}.pub", "here"),
            )
            assert done.returncode == 0, done.stdout + done.stderr
        for name, party in self.nodes.items():
            data, records = party.folder / "data.csv", party.folder / "records"
            party.start(
                "supernode",
                *("flower-supernode", "--superlink", f"{HOST}:{port}"),
                *("--root-certificates", self.keys / "ca.crt"),
                *("--auth-supernode-private-key", self.keys / f"{name}.key"),
                *("--host", HOST, "--port", free_port()),
                *("--node-config", f'name="{name}" data="{data}" records="{records}"'),
            )

    def work(self) -> subprocess.CompletedProcess[str]:
        return self.server.run(
            *("fedunlearn", "work", "--app", self.app, "--state", self.state),
            *("--connection", "here", "--once"),
        )

    def serve(self) -> str:
        address = f"{HOST}:{free_port()}"
        self.server.start(
            "serve", "fedunlearn", "serve", "--state", self.state, "--listen", address
        )
        wait_for(int(address.rpartition(":")[2]))
        return address

    def stop(self) -> None:
        for party in (*self.nodes.values(), self.server):
            party.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(port: int) -> None:
    end = time.monotonic() + 60.0
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError(f"nothing listens on port {port}")


@pytest.fixture(scope="module")
def parties() -> Iterator[Parties]:
    if not can_be_others():
        pytest.skip("processes of other users cannot be started here; it takes root")
    folder = Path(tempfile.mkdtemp(prefix="fedunlearn-parties-"))
    found = Parties(folder)
    try:
        found.start()
        yield found
    finally:
        found.stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_none_reads_anothers_data_and_all_is_removed(parties: Parties) -> None:
    for name, party in parties.nodes.items():
        data = party.folder / "data.csv"
        assert stat.S_IMODE(party.folder.stat().st_mode) == 0o700
        assert party.run("cat", data).returncode == 0
        for other in (parties.server, *(p for n, p in parties.nodes.items() if n != name)):
            assert other.run("cat", data).returncode != 0

    first = parties.work()
    assert first.returncode == 0, first.stdout + first.stderr
    names = json.loads((parties.state / "names.json").read_text())
    assert names["nodes"] == sorted(NODES)
    known = json.loads((parties.state / "node-keys.json").read_text())
    assert sorted(known) == sorted(NODES) and len(set(known.values())) == 3

    owners = {name: PrivateKey.generate() for name in NODES}
    with open_state(parties.state, create=False) as state:
        issuer = state.issuer.public
        for name, key in owners.items():
            state.store.register_key(name, "owner", key.public, (name,), now=datetime.now(UTC))
    hand_back(parties)
    address = parties.serve()
    clients = {name: DeletionClient(address, key, plaintext=True) for name, key in owners.items()}

    from fedunlearn.commitments import Commitments

    commitments = Commitments.load(parties.nodes["east"].folder / "records" / "commitments.bin")
    records = clients["east"].create(record_scope("east", commitments, [0, 5, 17]))
    node = clients["south"].create(node_scope(["south"]))
    removed = parties.work()
    assert removed.returncode == 0, removed.stdout + removed.stderr

    for name, deletion in (("east", records), ("south", node)):
        assert clients[name].get(deletion.id).state == pb.STATE_SUCCEEDED
        receipt = verify_receipt(clients[name].receipt(deletion.id), issuer).predicate
        assert receipt["statistics"] == "estimated again on the retain set"
        assert receipt["kept"] and all(receipt["kept"].values())  # type: ignore[attr-defined]
        checked = {check["name"] for check in receipt["checks"]}  # type: ignore[attr-defined]
        assert checked == {"relative_update", "retain_loss_rise", "test_accuracy_drop"}
    tombstones = parties.nodes["east"].folder / "records" / "tombstones.json"
    assert [*json.loads(tombstones.read_text())["removed"].values()] == [[0, 5, 17]]
    verified = parties.server.run("fedunlearn", "ledger", "verify", "--state", parties.state)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    for client in clients.values():
        client.close()


def hand_back(parties: Parties) -> None:
    """Give the server what the test, as root, has written into its folder."""
    for path in (parties.state, *parties.state.rglob("*")):
        os.chown(path, parties.server.user, parties.server.user)
