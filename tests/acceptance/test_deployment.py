"""A deployment's keys and settings, and that an interrupted one leaves nothing.

The whole of it is ``make deployment``, whose exit status says whether all went well.
"""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fedunlearn.errors import ScenarioError
from fedunlearn.federation.federation import OnFault
from fedunlearn.flower.deployed_apps import on_fault, session_settings
from fedunlearn.lab.experiment import Experiment
from fedunlearn.scenario.loading import load_scenario
from tests.acceptance.commands import processes
from tests.tables import ROOT

FOLDER = ROOT / "simulations" / "deployment"
CONFIG = tomllib.loads((FOLDER / "app" / "pyproject.toml").read_text())["tool"]["flwr"]["app"][
    "config"
]


def keys(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, FOLDER / "keys.py", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


def test_keys_are_the_owners_alone_and_are_not_replaced(tmp_path: Path) -> None:
    arguments = ("keys", "--host", "127.0.0.1", "--host", "a.example.org", "--node", "north")
    assert keys(*arguments, cwd=tmp_path).returncode == 0
    made = {path.name: path for path in (tmp_path / "keys").iterdir()}
    assert sorted(made) == [
        *("ca.crt", "ca.key", "north.key", "north.pub", "server.crt", "server.key")
    ]
    for name, path in made.items():
        assert path.stat().st_mode & 0o777 == (0o600 if name.endswith(".key") else 0o644)
    trust = ssl.create_default_context(cafile=made["ca.crt"])
    trust.load_cert_chain(made["server.crt"], made["server.key"])
    assert made["north.pub"].read_text().startswith("ecdsa-sha2-nistp384 ")
    before = made["ca.key"].read_bytes()
    again = keys(*arguments, cwd=tmp_path)
    assert again.returncode == 1 and again.stderr.count("\n") == 1
    assert made["ca.key"].read_bytes() == before


@pytest.mark.parametrize("name", ["digits"])
def test_the_scenarios_can_be_run(name: str) -> None:
    experiment = Experiment.prepare(load_scenario(FOLDER / "app/deployed" / f"{name}.toml"))
    assert len(experiment.task.split.nodes) == 4


def test_the_apps_own_run_config_can_be_used() -> None:
    settings = session_settings(CONFIG)
    assert settings.endpoint.listen == "127.0.0.1" and settings.endpoint.reach is None
    assert settings.on_loss == "wait" and settings.payload is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("session-payload", "float16"),
        ("session-on-loss", "hope"),
        ("session-port", 70000),
        ("session-join-s", -1),
        ("session-connect-s", "soon"),
    ],
)
def test_what_cannot_be_used_in_a_run_config_is_named(key: str, value: object) -> None:
    with pytest.raises(ScenarioError, match=f"^{key}: "):
        session_settings(CONFIG | {key: value})


def test_the_rule_for_faults_is_abort_or_drop() -> None:
    assert on_fault(CONFIG) is OnFault.ABORT
    with pytest.raises(ScenarioError, match="on-fault: use one of abort, drop"):
        on_fault(CONFIG | {"on-fault": "hope"})


def flower_processes() -> set[int]:
    return processes("flower-super", "flwr-clientapp", "flwr-serverapp")


def test_an_interrupted_deployment_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    before = flower_processes()
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "FEDUNLEARN_DATA"}
    process = subprocess.Popen(
        [sys.executable, FOLDER / "deploy.py", "--out", tmp_path / "out"],
        cwd=tmp_path,
        env=environment | {"TMPDIR": str(scratch), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert "4 SuperNodes run" in process.stdout.readline()
        assert len(flower_processes() - before) >= 5
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode, errors) == (
        130,
        "deployment: interrupted; everything is stopped\n",
    )
    assert flower_processes() <= before
    assert list(scratch.iterdir()) == []
