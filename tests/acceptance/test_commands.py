"""The real command in a subprocess: exit status, one-line errors, files whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.acceptance.commands import FEDUNLEARN, fedunlearn, in_this_process, processes

SMALL = [
    *("--set", "training.rounds=3"),
    *("--set", "evaluation.oracles=2"),
    *("--set", "data.nodes=4"),
    *("--set", "data.alpha=1"),
]


def children_of_ray() -> set[int]:
    return processes("raylet", "gcs_server", "ray::", "ray/dashboard")


def gone(before: set[int]) -> bool:
    """Whether Ray's processes end, of themselves, within seconds of the command."""
    deadline = time.monotonic() + 20
    while children_of_ray() - before and time.monotonic() < deadline:
        time.sleep(0.2)
    return children_of_ray() <= before


def scenario(folder: Path, text: str) -> str:
    path = folder / "scenario.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_run_writes_both_files_and_prints_the_table(tmp_path: Path) -> None:
    done = fedunlearn("run", scenario(tmp_path, ""), *SMALL, "--out", "results", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("trained", "cubic-newton", "fine-tune", "retrained", "floor", "forget JS"):
        assert word in done.stdout
    assert sorted(p.name for p in (tmp_path / "results").iterdir()) == [
        "report.html",
        "results.json",
    ]
    json.loads((tmp_path / "results" / "results.json").read_text())


def test_json_is_what_is_written(tmp_path: Path) -> None:
    done = fedunlearn("run", scenario(tmp_path, ""), *SMALL, "--json", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout == (tmp_path / "out" / "results.json").read_text()


def test_demo_on_flowers_engine_leaves_nothing_running(tmp_path: Path) -> None:
    before = children_of_ray()
    # After three rounds a removal costs what stays more than the worker's gates allow.
    trained = ("--set", "training.rounds=10")
    done = fedunlearn("demo", *SMALL, *trained, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["environment"]["transport"] == "flower"
    (deletion,) = results["deletions"]
    assert deletion["state"] == "SUCCEEDED" and deletion["same_as_comparison"]
    assert "SUCCEEDED after" in done.stdout
    verify = ("receipt", "verify", "out/receipt.json", "--key", "out/issuer.pub")
    assert fedunlearn(*verify, cwd=tmp_path).returncode == 0
    assert gone(before)


@pytest.mark.parametrize("seconds", [1, 8], ids=["starting", "training"])
def test_interrupted_demo_leaves_no_process_and_no_file(tmp_path: Path, seconds: int) -> None:
    before = children_of_ray()
    process = subprocess.Popen(
        [FEDUNLEARN, "demo", "--set", "training.rounds=100000"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell lets its background jobs ignore interrupts, and those who run there inherit it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 60
        while not children_of_ray() - before and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(seconds)  # after Ray's first process
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
        _, errors = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert errors.strip() == "fedunlearn: interrupted; no result was written"
    assert gone(before)
    assert list(tmp_path.iterdir()) == []


UNUSABLE = {
    "unknown key": ("[training]\nround = 3", [], "training.round: unknown key (did you mean"),
    "unknown section": ("[train]\nrounds = 3", [], "train: unknown key (did you mean 'training'?)"),
    "bad value": ("[data]\nalpha = -1", [], "data.alpha: must be greater than 0, not -1"),
    "no TOML": ("[data", [], "is not valid TOML"),
    "missing data": ('[data]\nname = "idx"\npath = "nowhere"', [], "data.path: nowhere not found"),
    "no such node": ("[forget]\nnodes = [10]", [], "node 10 does not exist; nodes are 0 to 9"),
    "no such class": (
        '[forget]\nkind = "class"\nclass = 11',
        [],
        "class 11 does not exist; classes are 0 to 9",
    ),
    "all leave": ("[forget]\nnodes = [0,1,2,3,4,5,6,7,8,9]", [], "all nodes would leave"),
    "no data": ("[data]\nnodes = 1347\nalpha = 0.01", [], "lower nodes"),
    "too many nodes": ("[data]\nnodes = 3000", [], "3000 nodes but 1348 examples"),
    "no such method": ('[unlearning]\nmethods = ["magic"]', [], "'magic' is unknown"),
    "table of no method": ("[unlearning.fine-tun]\nrounds = 3", [], "did you mean 'fine-tune'?"),
    "no such model": ('[model]\nname = "vgg"', [], "use one of logistic, unit-logistic, mlp, cnn"),
    "NaN weights": ("[training]\nlearning-rate = 1e30", [], "lower the learning rate"),
    "bad --set": ("", ["--set", "rounds"], "use section.key=value"),
    "bad option": ("", ["--fast"], "No such option"),
    "bad transport": ("", ["--transport", "pigeon"], "pigeon"),
    "bad out": ("", ["--out", "scenario.toml/x"], "is not a folder that can be written to"),
}


# In processes of their own; the others in this one, as each start takes seconds.
APART = ("no TOML", "bad --set", "no such node")


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_input_gets_one_line_and_exit_status_2(tmp_path: Path, name: str) -> None:
    text, arguments, says = UNUSABLE[name]
    run = fedunlearn if name in APART else in_this_process
    done = run("run", scenario(tmp_path, text), *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.startswith("fedunlearn: ") and done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["scenario.toml"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Missing command; see 'fedunlearn --help'"),
        (["forget"], "No such command 'forget'; see 'fedunlearn --help'"),
        (["run"], "Missing argument 'SCENARIO.toml'; see 'fedunlearn run --help'"),
    ],
)
def test_wrong_usage_points_to_the_help(arguments: list[str], says: str, tmp_path: Path) -> None:
    done = fedunlearn(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"fedunlearn: {says}\n")


def test_a_missing_scenario_file(tmp_path: Path) -> None:
    done = fedunlearn("run", "nowhere.toml", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "nowhere.toml not found" in done.stderr


def test_bad_input_on_the_engine_is_the_same_one_line(tmp_path: Path) -> None:
    done = fedunlearn("demo", *SMALL, "--set", "training.learning-rate=1e30", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("fedunlearn: node ") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["demo", "--help"], ["--version"], ["serve", "--help"], ["request", "--help"]],
)
def test_help_loads_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom fedunlearn.cli.main import cli\n"
        f"cli.main({arguments!r}, standalone_mode=False)\n"
        "names = {'torch', 'ray', 'flwr', 'numpy', 'grpc', 'sqlalchemy', 'pydantic'}\n"
        "heavy = names & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
