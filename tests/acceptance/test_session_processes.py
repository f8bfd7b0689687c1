"""Sessions between processes: many nodes at once, and processes that are killed."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.kills import NODES, killed
from tests.benchmarks.session_memory import session_memory


def test_the_servers_memory_does_not_follow_the_number_of_nodes() -> None:
    measured = session_memory()["session_memory"]
    assert isinstance(measured, dict)
    assert measured["many_over_few"] <= 1.2, measured


def test_a_job_survives_kills_of_every_process(tmp_path: Path) -> None:
    jobs, error = killed(NODES + 1, tmp_path)
    assert jobs >= 1
    assert error <= 1e-6
