"""``fedunlearn leaderboard``: equal trials on runs of their own, by one command that resumes."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.commands import in_this_process

SCENARIO = """
[data]
nodes = 3
partition = "iid"
limit = 150
[training]
rounds = 2
[unlearning]
methods = ["scrub"]
[evaluation]
oracles = 2
"""
BOARD = """
seeds = 2
trials = 2
tuning-seeds = 1
methods = ["fine-tune", "rewind", "retrain"]

[[scenarios]]
name = "one"
group = "digits"
base = "small.toml"
tuned = true
quick = true

[[scenarios]]
name = "in turn"
group = "digits"
base = "small.toml"
set = ["forget.count=2", "forget.sequential=true"]
without = ["retrain"]
"""


def run(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return in_this_process("leaderboard", *arguments, "--jobs", "1", cwd=folder)


def write(folder: Path, board: str = BOARD) -> None:
    (folder / "small.toml").write_text(SCENARIO)
    (folder / "board.toml").write_text(board)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("board")
    write(folder)
    done = run(folder, "board.toml")
    assert done.returncode == 0, done.stderr
    assert (folder / "leaderboard/leaderboard.md").read_text() in done.stdout
    return folder


@pytest.fixture(scope="module")
def board(folder: Path) -> Any:
    return json.loads((folder / "leaderboard/leaderboard.json").read_text())


def test_every_method_has_as_many_trials_and_its_defaults_among_them(board: Any) -> None:
    (group,) = board["groups"]
    assert (group["group"], group["scenario"]) == ("digits", "one")
    tried: dict[str, list[Any]] = {}
    for trial in group["trials"]:
        tried.setdefault(trial["method"], []).append(trial["settings"])
        assert len(trial["scores"]) == 1
    assert {name: len(points) for name, points in tried.items()} == {
        "fine-tune": 2,
        "rewind": 2,
        "retrain": 1,  # it has nothing to tune
    }
    assert {"learning-rate": None} in tried["fine-tune"] and {"share": 0.5} in tried["rewind"]
    scores = [trial["score"] for trial in group["trials"] if trial["method"] == "rewind"]
    assert scores == sorted(scores)


def test_the_settings_found_are_those_reported_on_other_runs(board: Any) -> None:
    best = next(t["settings"] for t in board["groups"][0]["trials"] if t["method"] == "rewind")
    assert [one["summary"]["name"] for one in board["scenarios"]] == ["one", "in turn"]
    for one in board["scenarios"]:
        summary = one["summary"]
        assert summary["seeds"] == board["seeds"] == 2
        assert summary["scenario"]["unlearning"]["rewind"]["share"] == best["share"]
        assert summary["varied"]["data.seed"] == [0, 1]
        assert "scrub" not in summary["scenario"]["unlearning"]
    assert set(board["scenarios"][0]["summary"]["requests"][0]["methods"]) > {"retrain"}
    assert len(board["scenarios"][1]["summary"]["requests"]) == 2
    assert "retrain" not in board["scenarios"][1]["summary"]["requests"][0]["methods"]


def test_the_page_has_hardware_time_and_spread(folder: Path, board: Any) -> None:
    page = (folder / "leaderboard/leaderboard.md").read_text(encoding="utf-8")
    assert "Made by `fedunlearn leaderboard board.toml`" in page
    assert f"{board['hardware']['cores']} cores, 1 job at once" in page
    assert board["seconds"] > 0.0 and re.search(r" in \d+ s on ", page)
    assert page.count(" ± ") > 10
    rows = re.findall(r"^\| (\S+) \| \d\.\d \|", page, re.MULTILINE)
    assert sorted(rows) == ["fine-tune", "retrain", "rewind"]
    assert rows[0] == "retrain"  # exact where it runs
    assert "### in turn" in page and "after 2 requests" in page


def test_a_second_run_repeats_no_job(folder: Path, board: Any) -> None:
    cache = folder / "leaderboard/cache"
    before = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    done = run(folder, "board.toml", "--json")
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == before
    assert again["scenarios"] == board["scenarios"] and again["groups"] == board["groups"]
    assert again["seconds"] > board["seconds"]


def test_the_estimate_and_the_small_board(folder: Path) -> None:
    done = run(folder, "board.toml", "--estimate")
    assert done.returncode == 0, done.stderr
    # (2 reported runs + 1 of the search) x (1 trained + 2 retrained); 3 methods; 1 + 3 x 2 trials
    assert "one: 9 trainings, 13 removals, about 0.0" in done.stdout
    assert "in turn: 10 trainings, 8 removals, about" in done.stdout
    done = run(folder, "board.toml", "--estimate", "--quick")
    assert "one: 9 trainings" in done.stdout and "in turn" not in done.stdout


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("tuned = true", "", "group 'digits' has 0 with tuned = true; set it for one"),
        ('name = "in turn"', 'name = "one"', "two are named 'one'; give each a name of its own"),
        ('without = ["retrain"]', 'without = ["not"]', "leaves out 'not', which is not in methods"),
        ('"rewind"', '"nothing"', "'nothing'"),
        ("small.toml", "gone.toml", "scenario gone.toml not found"),
        ("trials = 2", "trial = 2", "trial: unknown key (did you mean 'trials'?)"),
        ("seeds = 2", "seeds = 0", "seeds: must be greater than 0, not 0"),
        ("forget.count=2", "forget.nodes=[1,9]", "node 9 does not exist"),
    ],
)
def test_a_board_that_cannot_run_is_one_line(old: str, new: str, says: str, tmp_path: Path) -> None:
    assert old in BOARD
    write(tmp_path, BOARD.replace(old, new, 1))
    done = run(tmp_path, "board.toml")
    assert done.returncode == 2
    assert says in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "leaderboard").exists()


def test_a_board_that_is_not_there(tmp_path: Path) -> None:
    done = run(tmp_path, "board.toml")
    assert done.returncode == 2 and "board board.toml not found" in done.stderr
