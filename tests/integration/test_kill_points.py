"""A deletion that is killed at any durable write, and started again, ends as if nothing were."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

KINDS = ("node", "samples", "class")
LEAST = 25
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """Run all kinds side by side; each kills a process at every durable write."""
    running = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        running[kind] = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.kill_points", folder, kind],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    said = {kind: process.communicate(timeout=280) for kind, process in running.items()}
    for kind, process in running.items():
        assert process.returncode == 0, said[kind][1]
    yield {kind: json.loads(said[kind][0]) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_every_durable_write_a_removal_is_done_once(
    stories: dict[str, dict[str, Any]], kind: str
) -> None:
    story = dict(stories[kind])
    whole = story.pop("whole")
    assert whole["status"] == 0
    assert len(story) >= LEAST
    assert {"before transaction create_many", "after transaction commit"} <= {
        name.split(" ", 1)[1] for name in story
    }
    for name, found in {"whole": whole, **story}.items():
        assert found["status"] == (0 if name == "whole" else -signal.SIGKILL), name
        assert found["acknowledged"] == found["deletions"], f"{name}: a request is lost"
        assert found["states"] == ["SUCCEEDED"], name
        assert found["applied"] == found["receipts"] == 1, f"{name}: done more or less than once"
        assert found["findings"] == [], name
        assert found["current"] == whole["current"], f"{name}: another model"
        assert found["removed"] == whole["removed"] > 0, name
        assert found["left_over"] == [], name
