"""``fedunlearn work --app``: requests that end in a user's own app, in the simulation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from fedunlearn.commitments import Commitments
from fedunlearn.requests.deletion import State
from fedunlearn.requests.keys import PrivateKey
from fedunlearn.requests.receipts import verify_receipt
from fedunlearn.requests.statement import node_scope, record_scope
from fedunlearn.service.client import DeletionClient
from fedunlearn.service.server import DeletionServer
from fedunlearn.service.service_settings import ServiceSettings
from fedunlearn.service.state import open_state
from tests.acceptance.commands import fedunlearn, in_this_process

APP = Path(__file__).parent / "file_app"
NODES = 3


def app_in(folder: Path) -> Path:
    """Return a copy of the app whose nodes have files."""
    app = folder / "app"
    shutil.copytree(APP, app, ignore=shutil.ignore_patterns("__pycache__"))
    data = folder / "data"
    data.mkdir()
    generator = np.random.default_rng(0)
    for node in range(NODES):
        inputs = generator.normal(size=(60, 6))
        labels = (inputs.sum(1) > 0).astype(float)
        np.savetxt(data / f"{node}.csv", np.column_stack([inputs, labels]), "%.6g", ",")
    project = app / "pyproject.toml"
    project.write_text(project.read_text().replace('folder = ""', f'folder = "{data}"'))
    return app


@pytest.mark.timeout(400)
def test_requests_end_in_the_users_app(tmp_path: Path) -> None:
    app, state = app_in(tmp_path), tmp_path / "state"
    command = ("work", "--app", app, "--state", state, "--once")
    first = fedunlearn(*command, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    names = json.loads((state / "names.json").read_text())
    assert names["nodes"] == ["0", "1", "2"]
    with open_state(state, create=False) as opened:
        keys = {}
        for name, nodes in (("one", ("1",)), ("two", ("2",))):
            keys[name] = PrivateKey.generate()
            public = keys[name].public
            opened.store.register_key(name, "owner", public, nodes, now=datetime.now(UTC))
        with DeletionServer(opened.store, ServiceSettings(listen="127.0.0.1:0")) as server:
            address = server.start()
            one, two = (DeletionClient(address, key, plaintext=True) for key in keys.values())
            commitments = Commitments.load(state / "nodes" / "node-1" / "commitments.bin")
            asked = {
                "records": one.create(record_scope("1", commitments, [3, 40])),
                "node": two.create(node_scope(["2"])),
            }
            one.close()
            two.close()
        worked = fedunlearn(*command, cwd=tmp_path)
        assert worked.returncode == 0, worked.stderr
        for deletion in asked.values():
            stored = opened.store.get(deletion.id)
            assert stored.state is State.SUCCEEDED, stored.reason
            text = opened.store.receipt(deletion.id)
            assert text is not None
            receipt = verify_receipt(text.encode(), opened.issuer.public).predicate
            assert receipt["kept"] == {"0": True, "1": True, "2": True}
            assert receipt["statistics"] == "estimated again on the retain set"
    tombstones = json.loads((state / "nodes" / "node-1" / "tombstones.json").read_text())
    assert list(tombstones["removed"].values()) == [[3, 40]]


Spoil = Callable[[Path], object]
BAD: dict[str, tuple[Spoil, str]] = {
    "no app": (lambda app: (app / "pyproject.toml").unlink(), "has no pyproject.toml"),
    "no component": (
        lambda app: change(app, 'serverapp = "ward.server_app:app"', ""),
        "components] has no serverapp",
    ),
    "method": (lambda app: change(app, "nodes = 3", 'method = "forget"'), "forget"),
    "key": (lambda app: change(app, "nodes = 3", "node = 3"), "node"),
    "component that is not there": (
        lambda app: change(app, "ward.client_app:app", "ward.clients:app"),
        "ward.clients:app cannot be imported",
    ),
}


def change(app: Path, old: str, new: str) -> None:
    project = app / "pyproject.toml"
    assert old in project.read_text()
    project.write_text(project.read_text().replace(old, new))


@pytest.mark.parametrize("name", BAD)
def test_an_app_that_cannot_be_used_is_one_line(name: str, tmp_path: Path) -> None:
    app = app_in(tmp_path)
    spoil, words = BAD[name]
    spoil(app)
    done = in_this_process(
        "work", "--app", app, "--state", tmp_path / "state", "--once", cwd=tmp_path
    )
    assert done.returncode == 2
    assert words in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_scenario_or_an_app_not_both(tmp_path: Path) -> None:
    for arguments in (
        (),
        ("scenario.toml", "--app", tmp_path),
        ("scenario.toml", "--connection", "x"),
        ("--app", tmp_path, "--set", "model.name=mlp"),
    ):
        done = in_this_process("work", *arguments, "--state", tmp_path / "state", cwd=tmp_path)
        assert done.returncode == 2 and "Traceback" not in done.stderr
