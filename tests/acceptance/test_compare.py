"""``fedunlearn compare`` and ``tune``: the real commands, resumed, interrupted, extended."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedunlearn.reporting.pages import toml
from tests.acceptance.commands import FEDUNLEARN, fedunlearn, in_this_process

SCENARIO = """
[data]
nodes = 4
limit = 400
alpha = 1
[training]
rounds = 4
local-epochs = 1
[unlearning]
methods = ["cubic-newton", "fine-tune", "fed-eraser"]
[unlearning.cubic-newton]
products = 3
[evaluation]
oracles = 2
"""

PLUGIN = '''
"""A method of somebody else: the trained model, shrunk."""

from fedunlearn.settings import Settings, Share
from fedunlearn.unlearning.method import Claim, Unlearned, UnlearningMethod


class ShrinkSettings(Settings):
    """Settings of shrink."""

    share: Share = 0.9


class Shrink(UnlearningMethod[ShrinkSettings]):
    """Keeps a share of every weight."""

    name = "shrink"
    settings_type = ShrinkSettings
    grid = {"share": (0.5, 0.9)}

    def unlearn(self, trained, federation, forget, *, on_round=None):
        weights = self.settings.share * trained.weights
        if on_round is not None:
            on_round(0, weights)
        return Unlearned(weights, "done", Claim.EMPIRICAL)
'''

PLUGIN_PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "somebodys-shrink"
version = "1"
[project.entry-points."fedunlearn.methods"]
shrink = "shrink:Shrink"
[tool.setuptools]
py-modules = ["shrink"]
"""


def scenario(folder: Path, text: str = SCENARIO, name: str = "small.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_comparison_is_resumed_and_gives_the_same_table(tmp_path: Path) -> None:
    arguments = ["compare", scenario(tmp_path), "--seeds", "2", "--out", "out"]
    alone = [*arguments, "--jobs", "1"]
    first = fedunlearn(*arguments, cwd=tmp_path)
    assert (first.returncode, first.stderr) == (0, "")
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        *{"cache", "small", "comparison.html", "comparison.json", "comparison.csv"},
    }
    written = {path: path.stat().st_mtime_ns for path in (out / "cache").iterdir()}
    # Two seeds, each with one trained model, two oracles, three methods and the results.
    assert len(written) == 2 * (1 + 2 + 3 + 1)
    table = (out / "comparison.csv").read_bytes()
    report = (out / "comparison.html").read_bytes()

    lost = next(path for path in sorted(written) if path.suffix == ".safetensors")
    lost.unlink()
    again = fedunlearn(*alone, cwd=tmp_path)
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert (out / "comparison.csv").read_bytes() == table
    now = {path: path.stat().st_mtime_ns for path in (out / "cache").iterdir()}
    assert [path for path in now if now[path] != written[path]] == [lost]

    anew = fedunlearn(*alone, "--out", "anew", cwd=tmp_path)
    assert (tmp_path / "anew" / "comparison.csv").read_bytes() == table
    assert (tmp_path / "anew" / "comparison.html").read_bytes() == report
    assert anew.stdout.replace("anew/", "out/") == first.stdout

    rows = list(csv.DictReader(table.decode().splitlines()))
    assert {row["model"] for row in rows} >= {"trained", "cubic-newton", "fed-eraser", "retrained"}
    document = json.loads((out / "comparison.json").read_text())
    assert [one["name"] for one in document["scenarios"]] == ["small"]
    for number in (0, 1):
        results = json.loads((out / "small" / str(number) / "results.json").read_text())
        assert results["scenario"]["data"]["seed"] == number
        assert results["scenario"]["training"]["seed"] == 1 + 100 * number


def test_a_method_of_another_package_shows_up_by_installing_it(tmp_path: Path) -> None:
    project = tmp_path / "somebodys"
    project.mkdir()
    (project / "shrink.py").write_text(PLUGIN)
    (project / "pyproject.toml").write_text(PLUGIN_PROJECT)
    assert len(PLUGIN.strip().splitlines()) <= 30
    site = tmp_path / "site"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"),
            *("--no-build-isolation", "--disable-pip-version-check", "--target", site, project),
        ],
        check=True,
        timeout=120,
    )
    text = SCENARIO.replace('"fine-tune", "fed-eraser"', '"shrink"')
    path = scenario(tmp_path, text + "[unlearning.shrink]\nshare = 0.8\n")
    done = fedunlearn(
        *("compare", path, "--seeds", "1", "--jobs", "1", "--out", "out"),
        cwd=tmp_path,
        PYTHONPATH=str(site),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "shrink" in done.stdout
    results = json.loads((tmp_path / "out" / "small" / "0" / "results.json").read_text())
    entry = results["requests"][0]["methods"]["shrink"]
    assert entry["rounds"] == 0 and entry["status"] == "done"
    unknown = fedunlearn("compare", path, "--seeds", "1", cwd=tmp_path)
    assert unknown.returncode == 2 and "'shrink' is unknown" in unknown.stderr


def test_interrupted_it_leaves_no_process_and_is_resumed_later(tmp_path: Path) -> None:
    long = SCENARIO.replace("rounds = 4", "rounds = 30")
    arguments = ["compare", str(scenario(tmp_path, long)), "--seeds", "2", "--out", "out"]
    process = subprocess.Popen(
        [FEDUNLEARN, *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    cache = tmp_path / "out" / "cache"
    try:
        deadline = time.monotonic() + 120
        while not (cache.is_dir() and list(cache.iterdir())) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert errors.strip() == "fedunlearn: interrupted; no result was written"
    with pytest.raises(ProcessLookupError):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:  # workers of the group end a moment later
            os.killpg(process.pid, 0)
            time.sleep(0.1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cache"]
    kept = {path.name for path in cache.iterdir() if not path.name.startswith(".")}
    assert kept
    done = fedunlearn(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert kept < {path.name for path in cache.iterdir()}


def test_tuning_gives_every_method_as_many_trials(tmp_path: Path) -> None:
    text = SCENARIO.replace("[evaluation]", "[unlearning.fine-tune]\nrounds = 2\n[evaluation]")
    done = fedunlearn(
        *("tune", scenario(tmp_path, text), "--seeds", "2", "--trials", "3", "--jobs", "1"),
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    trials = json.loads((tmp_path / "tuning" / "tuning.json").read_text())["trials"]
    for name in ("cubic-newton", "fine-tune", "fed-eraser"):
        own = [trial for trial in trials if trial["method"] == name]
        assert len(own) == 3
        assert len({json.dumps(trial["settings"]) for trial in own}) == 3
        assert [trial["score"] for trial in own] == sorted(trial["score"] for trial in own)
        assert all(len(trial["scores"]) == 2 for trial in own)
        best = own[0]["settings"]
        assert f"[unlearning.{name}]" in done.stdout
        for key, value in best.items():
            written = f"{key} = {toml(value)}" if value is not None else f"# {key} is left out"
            assert written in done.stdout


UNUSABLE = {
    "nothing to compare": (["compare"], "Missing argument 'SCENARIO.toml...'"),
    "a file that is not there": (["compare", "nowhere.toml"], "nowhere.toml not found"),
    "no seed": (["compare", "small.toml", "--seeds", "0"], "0 is not in the range x>=1"),
    "twice the same": (["compare", "small.toml", "other/small.toml"], "two scenarios are named"),
    "one request in sequence": (
        ["compare", "small.toml", "--set", "forget.sequential=true"],
        "forget.sequential: there is one request only; give several by nodes",
    ),
    "bad out": (["compare", "small.toml", "--out", "small.toml/x"], "is not a folder"),
    "nothing to tune": (["tune", "nowhere.toml"], "nowhere.toml not found"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_input_gets_one_line(tmp_path: Path, name: str) -> None:
    scenario(tmp_path)
    (tmp_path / "other").mkdir()
    scenario(tmp_path / "other")
    arguments, says = UNUSABLE[name]
    done = in_this_process(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.startswith("fedunlearn: ") and done.stderr.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"small.toml", "other"}
