"""Flower's own tool checks the examples' metadata and builds the bundles that its hub takes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
APPS = sorted(path.parent for path in EXAMPLES.glob("*/*/pyproject.toml"))


@pytest.mark.parametrize("app", APPS, ids=lambda path: "/".join(path.parts[-2:]))
def test_flower_builds_the_bundle_of_an_app(app: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(app, tmp_path / "app")
    environment = {
        **os.environ,
        "FLWR_HOME": str(tmp_path / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    flwr = Path(sys.executable).with_name("flwr")
    done = subprocess.run(
        [flwr, "build"], cwd=copy, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(copy.glob("*.fab"))) == 1
