"""The whole way by commands: train, register, serve, ask, work, verify, roll back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.acceptance.commands import FEDUNLEARN, fedunlearn
from tests.acceptance.test_requests import serving

SCENARIO = """
[data]
name = "digits"
nodes = 3
limit = 150

[model]
name = "logistic"

[training]
rounds = 4

[unlearning]
methods = ["cubic-newton"]

[unlearning.cubic-newton]
products = 3
"""
TRAINING = "training the first model\n"
WORK = ("work", "scenario.toml", "--state", "state", "--transport", "inline", "--name", "ward")


def run(folder: Path, *arguments: str) -> str:
    done = fedunlearn(*arguments, cwd=folder)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_from_training_to_a_receipt_and_back(tmp_path: Path) -> None:
    (tmp_path / "scenario.toml").write_text(SCENARIO)
    assert run(tmp_path, *WORK, "--once") == TRAINING
    for name, role in (("clinic", ("owner", "--node", "1")), ("board", ("operator",))):
        run(tmp_path, "keys", "generate", f"{name}.key")
        registered = ("--state", "state", "--name", name, "--role", *role)
        run(tmp_path, "keys", "register", f"{name}.key.pub", *registered)
    worker = subprocess.Popen(
        [FEDUNLEARN, *WORK],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with serving(tmp_path) as service:
            commitments = "state/nodes/node-1/commitments.bin"
            made = service.json(
                *("request", "create", "--records", "0-4", "--of-node", "1"),
                *("--commitments", commitments),
                key="clinic",
            )
            watched = service.run(
                *("request", "watch", str(made["id"]), "--plaintext", "--json"), key="clinic"
            )
            changes = [json.loads(line) for line in watched.stdout.splitlines()]
            assert [changes[0]["state"], changes[-1]["state"]] == ["PENDING", "SUCCEEDED"]
            assert changes[-1]["actor"] == "worker ward"
            shown = ("receipt", "show", str(made["id"]), "--out", "receipt.json", "--plaintext")
            assert service.run(*shown, key="clinic").returncode == 0
    finally:
        worker.send_signal(signal.SIGTERM)
        out, err = worker.communicate(timeout=30)
    assert (worker.returncode, err) == (0, "")
    assert out == f"{made['id']}: SUCCEEDED\n"
    models = json.loads(run(tmp_path, "models", "list", "--state", "state", "--json"))
    assert [model["current"] for model in models] == [True, False]
    model = tmp_path / "state" / "models" / f"{models[0]['sha256']}.safetensors"
    verify = ("receipt", "verify", "receipt.json", "--key", "state/issuer.pub")
    run(tmp_path, *verify, "--model", str(model))
    run(tmp_path, "ledger", "verify", "--state", "state")
    asked = fedunlearn(
        *("models", "rollback", "--state", "state", "--reason", "audit"), cwd=tmp_path
    )
    assert (asked.returncode, asked.stdout, asked.stderr.count("\n")) == (2, "", 1)
    assert asked.stderr.startswith("fedunlearn: --yes: there is no terminal to confirm at")
    rolled = run(tmp_path, "models", "rollback", "--state", "state", "--reason", "audit", "--yes")
    assert rolled == f"{models[1]['sha256']} is current again\n"
    run(tmp_path, "ledger", "verify", "--state", "state")
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    changed = fedunlearn("ledger", "verify", "--state", "state", cwd=tmp_path)
    assert changed.returncode == 1
    assert models[0]["sha256"] in changed.stdout + changed.stderr
    assert "rolled back" in run(tmp_path, "models", "list", "--state", "state")


def test_once_says_that_a_request_was_not_removed(tmp_path: Path) -> None:
    (tmp_path / "scenario.toml").write_text(SCENARIO)
    run(tmp_path, *WORK, "--once")
    (tmp_path / "state" / "worker.toml").write_text("[gates]\nrelative-update = 1e-9\n")
    run(tmp_path, "keys", "generate", "clinic.key")
    registered = ("--state", "state", "--name", "clinic", "--node", "1")
    run(tmp_path, "keys", "register", "clinic.key.pub", *registered)
    with serving(tmp_path) as service:
        service.json("request", "create", "--node", "1", key="clinic")
    done = fedunlearn(*WORK, "--once", cwd=tmp_path)
    assert done.returncode == 1
    assert "FAILED: the new model fails a gate" in done.stdout
    assert (
        done.stderr
        == "fedunlearn: 1 request was not removed; 'fedunlearn request get' shows the reason\n"
    )


GOES_ON = "fedunlearn: interrupted; unfinished work is resumed when the worker starts again"


@pytest.mark.parametrize(
    ("transport", "signum", "status", "says"),
    [("inline", signal.SIGINT, 130, GOES_ON), ("flower", signal.SIGTERM, 0, "")],
)
def test_a_worker_that_waits_is_ended(
    tmp_path: Path, transport: str, signum: int, status: int, says: str
) -> None:
    (tmp_path / "scenario.toml").write_text(SCENARIO)
    worker = subprocess.Popen(
        [FEDUNLEARN, *WORK, "--transport", transport],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell lets its background jobs ignore interrupts, and those who run there inherit it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    end = time.monotonic() + 120.0
    while not list(tmp_path.glob("state/models/*.safetensors")) and time.monotonic() < end:
        time.sleep(0.05)
    worker.send_signal(signum)
    out, err = worker.communicate(timeout=60)
    assert (worker.returncode, out, err.strip()) == (status, TRAINING, says)
    assert run(tmp_path, *WORK, "--once") == ""


def test_a_worker_says_in_one_line_what_it_cannot_use(tmp_path: Path) -> None:
    (tmp_path / "scenario.toml").write_text(SCENARIO)
    run(tmp_path, *WORK, "--once")
    state = tmp_path / "state"
    (model,) = (state / "models").glob("*.safetensors")
    content = model.read_bytes()
    settings = state / "worker.toml"
    for change, status, says in (
        (
            lambda: settings.write_text("batch = 0\n"),
            2,
            "worker.toml: batch: must be",
        ),
        (lambda: settings.write_bytes(b"\xff"), 2, "worker.toml is not valid TOML"),
        (lambda: (settings.unlink(), model.write_bytes(content[1:])), 1, "was changed"),
        (model.unlink, 1, "is missing; restore it from a backup"),
    ):
        change()
        done = fedunlearn(*WORK, "--once", cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1)
        assert says in done.stderr
