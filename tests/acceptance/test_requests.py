"""The deletion service by its commands: serve, request, receipt, ledger, keys."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fedunlearn.service.state import open_state
from tests.acceptance.commands import FEDUNLEARN, fedunlearn
from tests.certificates import Authority
from tests.deletion_house import COMMITMENTS, KEYS, furnish, remove

NO_ID = "00000000-0000-4000-8000-000000000000"


@dataclass
class Service:
    """The command ``fedunlearn serve``, running."""

    folder: Path
    process: subprocess.Popen[str]
    address: str
    metrics: str

    def run(self, *arguments: str, key: str = "alice") -> subprocess.CompletedProcess[str]:
        return fedunlearn(
            *arguments,
            cwd=self.folder,
            FEDUNLEARN_ADDRESS=self.address,
            FEDUNLEARN_KEY=f"{key}.key",
        )

    def json(self, *arguments: str, key: str = "alice") -> dict[str, object]:
        done = self.run(*arguments, "--plaintext", "--json", key=key)
        assert (done.returncode, done.stderr) == (0, "")
        found = json.loads(done.stdout)
        assert isinstance(found, dict)
        return found

    def stop(self, signum: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(signum)
        out, _ = self.process.communicate(timeout=20)
        return self.process.returncode, out


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Service]:
    """Serve a furnished state folder ``state`` in a folder with everybody's keys."""
    if not (folder / "state").exists():
        with open_state(folder / "state") as state:
            furnish(state.store)
        for name, key in KEYS.items():
            key.write(folder / f"{name}.key")
        for node, commitments in COMMITMENTS.items():
            commitments.save(folder / f"node-{node}.commitments")
    process = subprocess.Popen(
        [
            *(FEDUNLEARN, "serve", "--state", "state", "--listen", "127.0.0.1:0"),
            *("--metrics", "127.0.0.1:0", *arguments),
        ],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        # A shell lets its background jobs ignore interrupts, and those who run there inherit it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        metrics = process.stdout.readline().split()[2]
        address = process.stdout.readline().split()[2]
        yield Service(folder, process, address, metrics)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("service")) as found:
        yield found


def test_a_request_from_asking_to_the_receipt(service: Service) -> None:
    (service.folder / "records.txt").write_text("3, 5\n7-9\n")
    made = service.json(
        *("request", "create", "--records", "records.txt", "--of-node", "0"),
        *("--commitments", "node-0.commitments"),
    )
    assert made["scope"]["count"] == 5  # type: ignore[index]
    assert made["scope"]["nodes"] == ["0"]  # type: ignore[index]
    shown_to_operator = service.run("request", "list", "--plaintext", key="op").stdout
    assert "5 records of node 0" in shown_to_operator
    assert (made["state"], made["owner"], made["near_due"]) == ("PENDING", "alice", False)
    id = str(made["id"])
    assert service.json("request", "get", id)["id"] == id
    listed = service.json("request", "list", "--state", "pending", key="op")
    assert id in [one["id"] for one in listed["requests"]]  # type: ignore[attr-defined]
    early = service.run("receipt", "show", id, "--plaintext")
    assert early.returncode == 1 and "RECEIPT_NOT_READY" in early.stderr
    with open_state(service.folder / "state") as state:
        remove(state, "second")
    watched = service.run("request", "watch", id, "--plaintext", "--json")
    changes = [json.loads(line) for line in watched.stdout.splitlines()]
    assert [changes[0]["state"], changes[-1]["state"]] == ["PENDING", "SUCCEEDED"]
    assert "SUCCEEDED" in service.run("request", "watch", id, "--plaintext").stdout
    shown = service.run("receipt", "show", id, "--out", "receipt.json", "--plaintext")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert id in shown.stdout
    verify = ("receipt", "verify", "receipt.json", "--key", "state/issuer.pub")
    verified = service.run(*verify, "--json")
    assert json.loads(verified.stdout)["verified"] is True
    assert service.run(*verify).stdout.startswith("verified with key ")
    receipt = service.folder / "receipt.json"
    receipt.write_text(receipt.read_text().replace('"sig":"', '"sig":"A', 1))
    damaged = service.run(*verify)
    assert (damaged.returncode, damaged.stderr.count("\n")) == (1, 1)


def test_operators_decide(service: Service) -> None:
    def made(*scope: str, key: str = "alice") -> str:
        return str(service.json("request", "create", *scope, key=key)["id"])

    id = made("--class", "3", "--class", "1", key="op")
    rejected = service.json("request", "reject", id, "--reason", "no such class", key="op")
    assert (rejected["state"], rejected["reason"]) == ("REJECTED", "no such class")
    proofs = ("--of-node", "0", "--commitments", "node-0.commitments")
    assert service.json("request", "create", "--records", "0-2,9", *proofs)["scope"]["count"] == 4  # type: ignore[index]
    id = made("--class", "3", "--on-node", "0")
    extended = service.json(
        *("request", "extend", id, "--due", _day(70), "--reason", "many requests"), key="op"
    )
    assert str(extended["due"]).startswith(_day(70))
    assert service.json("request", "cancel", id)["state"] == "CANCELLED"
    id = made("--node", "2", key="bob")  # more than half of all records
    assert service.json("request", "get", id, key="op")["state"] == "AWAITING_APPROVAL"
    assert service.json("request", "approve", id, key="op")["state"] == "PENDING"
    refused = service.run("request", "retry", id, "--plaintext", key="op")
    assert refused.returncode == 1
    assert refused.stderr.startswith("fedunlearn: STATE_CONFLICT: ")
    shown = service.run("request", "cancel", id, "--plaintext", key="bob")
    assert re.search(r"^state +CANCELLED$", shown.stdout, re.MULTILINE)


def _day(days: int) -> str:
    from datetime import timedelta

    from tests.deletion_house import now

    return (now() + timedelta(days=days)).strftime("%Y-%m-%d")


def test_what_is_near_due_is_shown_as_such(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "service.toml").write_text("due-days = 3\n")
    with open_state(tmp_path / "state") as state:
        furnish(state.store)
    for name, key in KEYS.items():
        key.write(tmp_path / f"{name}.key")
    with serving(tmp_path) as service:
        made = service.run("request", "create", "--node", "0", "--plaintext")
        assert re.search(r"^due .* NEAR: 2 d 23 h left$", made.stdout, re.MULTILINE)
        assert "NEAR" in service.run("request", "list", "--plaintext").stdout
        with urllib.request.urlopen(f"{service.metrics}", timeout=10) as answer:
            assert b"fedunlearn_deletions_near_due" in answer.read()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_serve_stops_gracefully(tmp_path: Path, signum: int) -> None:
    with serving(tmp_path) as service, grpc.insecure_channel(service.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        states = stub.Watch(health_pb2.HealthCheckRequest())
        assert next(states).status == health_pb2.HealthCheckResponse.SERVING
        service.process.send_signal(signum)
        assert next(states).status == health_pb2.HealthCheckResponse.NOT_SERVING
        states.cancel()
        out, _ = service.process.communicate(timeout=20)
        assert (service.process.returncode, out) == (0, "stopped\n")


def test_serve_with_tls(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path, "authority")
    certificate, key = authority.issue("server")
    tls = ("--tls-cert", str(certificate), "--tls-key", str(key))
    with serving(tmp_path, *tls, "--client-ca", str(authority.certificate)) as service:
        mine, _ = authority.issue("op", tmp_path / "op.key")
        certified = ("--ca", str(authority.certificate), "--cert", str(mine))
        done = service.run("request", "list", *certified, "--cert-key", "op.key", key="op")
        assert (done.returncode, done.stderr) == (0, "")
        for options, hint in (
            ((), "--ca: name the authority"),
            (("--plaintext",), "use --ca instead"),
        ):
            refused = service.run("request", "list", *options, key="op")
            assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
            assert hint in refused.stderr
        assert service.stop() == (0, "stopped\n")


def test_keys_and_ledger(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return fedunlearn(*arguments, cwd=tmp_path)

    made = run("keys", "generate", "owner.key", "--kind", "p384")
    assert made.stdout.splitlines()[:2] == ["owner.key", "owner.key.pub"]
    assert (tmp_path / "owner.key").stat().st_mode & 0o777 == 0o600
    again = run("keys", "generate", "owner.key")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    id = made.stdout.split()[-1]
    COMMITMENTS["0"].save(tmp_path / "commitments")
    register = ("keys", "register", "owner.key.pub", "--state", "state", "--name", "owner")
    done = run(*register, "--node", "0", "--commitment", "commitments")
    assert (done.returncode, done.stderr) == (0, "")
    listed = json.loads(run("keys", "list", "--state", "state", "--json").stdout)
    assert [(one["key_id"], one["nodes"]) for one in listed["keys"]] == [(id, ["0"])]
    assert listed["commitments"][0]["records"] == COMMITMENTS["0"].size
    COMMITMENTS["1"].save(tmp_path / "commitments")
    other = run(*register, "--node", "0", "--commitment", "commitments")
    assert (other.returncode, other.stderr.count("\n")) == (2, 1)
    assert run("keys", "revoke", id, "--state", "state").returncode == 0
    assert "revoked" in run("keys", "list", "--state", "state").stdout
    assert run("ledger", "verify", "--state", "state").stdout == "state: verified, no errors\n"
    assert run("ledger", "export", "--state", "state", "--out", "log.json").returncode == 0
    verify = ("ledger", "verify", "log.json", "--key", "state/issuer.pub", "--json")
    assert json.loads(run(*verify).stdout) == {"verified": True, "findings": []}
    text = (tmp_path / "log.json").read_text()
    (tmp_path / "log.json").write_text(text.replace('"owner', '"0wner', 1))
    damaged = run(*verify)
    assert damaged.returncode == 1 and json.loads(damaged.stdout)["findings"]


UNUSABLE = {
    "no key": (["request", "list", "--address", "127.0.0.1:1"], "--key: give"),
    "no address": (["request", "list"], "Missing option '--address'"),
    "bad address": (
        ["request", "list", "--address", "nowhere", "--key", "k"],
        "is not an address; use HOST:PORT",
    ),
    "missing key": (
        ["request", "list", "--address", "127.0.0.1:1", "--key", "k"],
        "k cannot be read",
    ),
    "plain text over a network": (
        ["request", "list", "--address", "10.0.0.1:1", "--key", "k", "--plaintext"],
        "not the loopback interface; use TLS",
    ),
    "two scopes": (
        ["request", "create", "--node", "1", "--class", "2", "--address", "127.0.0.1:1"],
        "give one of --node, --records and --class",
    ),
    "no commitments": (
        ["request", "create", "--records", "1", "--address", "127.0.0.1:1"],
        "needs --commitments and --of-node",
    ),
    "bad records": (
        [
            *("request", "create", "--records", "1-x", "--address", "127.0.0.1:1"),
            *("--of-node", "1", "--commitments", "c"),
        ],
        "neither a list such as 3,5,7-9 nor a readable file",
    ),
    "no state": (["ledger", "verify", "--state", "nowhere"], "is not a state folder"),
    "no receipt": (["receipt", "verify", "nowhere", "--key", "k"], "k cannot be read"),
    "a network without TLS": (
        ["serve", "--state", "state", "--listen", "0.0.0.0:0"],
        "not the loopback interface; give --tls-cert and --tls-key",
    ),
    "an argument of bytes": (["request", "get", "\udcff"], "the argument is not valid UTF-8"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_input_gets_one_line_and_exit_status_2(tmp_path: Path, name: str) -> None:
    arguments, says = UNUSABLE[name]
    done = fedunlearn(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.startswith("fedunlearn: ") and done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_refusals_get_one_line(service: Service) -> None:
    for arguments, status, says in (
        (("request", "get", NO_ID), 1, "NOT_YOUR_REQUEST"),
        (("request", "get", "x"), 2, "FIELD_INVALID"),
        (("request", "approve", NO_ID), 1, "OPERATOR_ONLY"),
    ):
        done = service.run(*arguments, "--plaintext")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1)
        assert done.stderr.startswith(f"fedunlearn: {says}: ")
    foreign = service.run("request", "create", "--node", "2", "--plaintext")
    echo = "to be removed all data of 1 node: node 2\n"  # before it is signed
    assert (foreign.returncode, foreign.stdout, foreign.stderr.count("\n")) == (1, echo, 1)
    assert foreign.stderr.startswith("fedunlearn: NOT_YOUR_NODE: ")
    other = service.run("request", "list", "--plaintext", "--audience", "another")
    assert (other.returncode, other.stdout, other.stderr.count("\n")) == (1, "", 1)
    assert "not another" in other.stderr


def test_client_commands_load_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nimport fedunlearn.service.client\n"
        "import fedunlearn.service.server, fedunlearn.service.state\n"
        "heavy = {'torch', 'ray', 'flwr', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [FEDUNLEARN.with_name("python"), "-c", code], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
