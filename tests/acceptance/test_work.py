"""The whole way by commands: train, register, serve, ask, work, verify, roll back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

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
WORK = ("work", "scenario.toml", "--state", "state", "--transport", "inline", "--name", "ward")


def run(folder: Path, *arguments: str) -> str:
    done = fedunlearn(*arguments, cwd=folder)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_from_training_to_a_receipt_and_back(tmp_path: Path) -> None:
    (tmp_path / "scenario.toml").write_text(SCENARIO)
    assert run(tmp_path, *WORK, "--once") == ""
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
