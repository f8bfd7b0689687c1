"""Processes that a failed block started are ended, and no others."""

from __future__ import annotations

import subprocess

import pytest

from fedunlearn.flower.descendants import ended_on_failure

SLEEP = ["sleep", "600"]


def test_a_failed_block_ends_what_it_started_and_nothing_else() -> None:
    with subprocess.Popen(SLEEP) as bystander:
        # The shell ends at once, so that the sleeping grandchild is nobody's child any more.
        orphaning = ["sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!"]
        with pytest.raises(KeyboardInterrupt), ended_on_failure():
            child = subprocess.Popen(SLEEP)
            orphan = subprocess.run(orphaning, capture_output=True, text=True, check=True).stdout
            raise KeyboardInterrupt
        assert child.wait(timeout=5) != 0
        state = subprocess.run(
            ["ps", "-o", "stat=", "-p", orphan.strip()], capture_output=True, text=True
        )
        assert state.stdout.strip() in ("", "Z")
        assert bystander.poll() is None
        bystander.kill()


def test_a_block_that_succeeds_leaves_its_processes_alone() -> None:
    with ended_on_failure():
        child = subprocess.Popen(SLEEP)
    assert child.poll() is None
    child.kill()
    child.wait()
