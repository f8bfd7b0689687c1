"""``fedunlearn evaluate``: models that other code unlearned, by the how-to page and by files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.acceptance.commands import in_this_process

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/how-to/compare-foreign-code.md"
SCENARIO = """
[data]
nodes = 4
partition = "iid"
limit = 400
[training]
rounds = 3
[forget]
nodes = [1]
[unlearning]
methods = ["fine-tune", "rewind"]
[unlearning.fine-tune]
rounds = 2
[evaluation]
oracles = 2
"""


def run(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return in_this_process(*arguments, cwd=folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a scenario, its run, its saved models, and a foreign model of it."""
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "small.toml").write_text(SCENARIO)
    done = run(folder, "run", "small.toml", "--save-models", "models")
    assert done.returncode == 0, done.stderr
    (script,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert "fedunlearn" not in script
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True, timeout=120)
    return folder


def evaluated(folder: Path, *arguments: str | Path) -> Any:
    done = run(folder, "evaluate", *arguments, "--json", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_foreign_script_is_scored_from_the_page_alone(folder: Path) -> None:
    results = evaluated(folder, "theirs.safetensors", "small.toml")
    own = json.loads((folder / "out/results.json").read_text())
    (request,), (wanted,) = results["requests"], own["requests"]
    assert set(request["methods"]) == {"theirs"}
    for key in ("forget", "floor", "trained"):
        assert request[key] == wanted[key]
    entry = request["methods"]["theirs"]
    metrics = {"forget_js", "retain_js", "test_js", "tow", "mia_auc", "update_norm", "forget_loss"}
    assert metrics | {"weight_distance", "forget_accuracy"} <= set(entry)
    assert entry["update_norm"] > 0.0 and entry["retain_accuracy"] > 0.5
    assert not {"rounds", "bytes_up", "gradient_equivalents", "seconds"} & set(entry)
    assert (folder / "evaluation/report.html").read_text().count("theirs") > 2
    done = run(folder, "report", "evaluation/results.json", "--out", "again")
    assert done.returncode == 0 and "theirs" in done.stdout


def test_a_saved_model_has_the_metrics_of_its_method(folder: Path) -> None:
    own = json.loads((folder / "out/results.json").read_text())["requests"][0]
    names = ("models/fine-tune.safetensors", "models/trained.safetensors")
    given = ("--name", "one", "--name", "two", "--with-methods")
    (request,) = evaluated(folder, *names, "small.toml", *given)["requests"]
    assert list(request["methods"]) == ["fine-tune", "rewind", "one", "two"]
    for key, value in request["methods"]["one"].items():
        if key not in ("status", "details"):
            assert value == own["methods"]["fine-tune"][key], key
    assert request["methods"]["two"]["forget_js"] == own["trained"]["forget_js"]
    table = run(folder, "evaluate", *names, "small.toml", *given, "--jobs", "1").stdout
    assert re.search(r"^ one +\d\.\d{4}", table, re.MULTILINE)


def test_the_data_say_what_leaves_and_where_it_lies(folder: Path) -> None:
    data = load_file(folder / "models/data.safetensors")
    assert set(data["node"].unique().tolist()) == {0, 1, 2, 3}
    assert torch.equal(data["leaves"] == 1, data["node"] == 1)
    assert data["inputs"].shape == (400, 1, 8, 8) and len(data["test_targets"]) > 100
    initial, trained = (
        load_file(folder / f"models/{n}.safetensors") for n in ("initial", "trained")
    )
    assert list(initial) == list(trained) == ["1.bias", "1.weight", "3.bias", "3.weight"]


def test_a_sequence_is_evaluated_after_the_request_that_is_named(tmp_path: Path) -> None:
    text = SCENARIO.replace("nodes = [1]", "nodes = [1, 3]\nsequential = true")
    (tmp_path / "small.toml").write_text(text)
    assert run(tmp_path, "run", "small.toml", "--save-models", "models").returncode == 0
    own = json.loads((tmp_path / "out/results.json").read_text())["requests"]
    leaves = load_file(tmp_path / "models/data.safetensors")["leaves"]
    assert leaves.unique().tolist() == [0, 1, 2]
    last = "models/fine-tune.safetensors"
    (request,) = evaluated(tmp_path, last, "small.toml")["requests"]
    assert request["forget"] == own[1]["forget"]
    assert request["methods"]["fine-tune"]["tow"] == own[1]["methods"]["fine-tune"]["tow"]
    (request,) = evaluated(tmp_path, last, "small.toml", "--request", "1")["requests"]
    assert request["forget"] == own[0]["forget"]
    done = run(tmp_path, "evaluate", last, "small.toml", "--request", "3")
    assert done.returncode == 2
    assert "--request 3: the scenario has 2 requests; give a number from 1 to 2" in done.stderr


def changed(folder: Path, **tensors: Tensor | None) -> dict[str, Tensor]:
    state = load_file(folder / "theirs.safetensors") | tensors  # type: ignore[operator]
    return {name: tensor for name, tensor in state.items() if tensor is not None}


BAD: dict[str, tuple[dict[str, Tensor | None], str]] = {
    "missing": ({"3.bias": None}, "has no tensor '3.bias', which the scenario's model has; give"),
    "extra": ({"4.bias": torch.zeros(1)}, "holds tensor '4.bias', which the scenario's model does"),
    "shape": (
        {"3.bias": torch.zeros(9)},
        "tensor '3.bias' has shape (9,), the model's (10,); give",
    ),
    "nan": (
        {"3.bias": torch.full((10,), torch.nan)},
        "10 of 10 numbers of tensor '3.bias' are NaN",
    ),
    "dtype": (
        {"3.bias": torch.zeros(10, dtype=torch.int64)},
        "tensor '3.bias' is int64, the model's float32; give",
    ),
    "prefix": (
        {"3.bias": None, "module.3.bias": torch.zeros(10)},
        "holds tensor 'module.3.bias', which the scenario's model does not have; leave out the "
        "prefix 'module.' of a wrapper",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_model_that_cannot_be_used_is_one_line(name: str, folder: Path, tmp_path: Path) -> None:
    tensors, says = BAD[name]
    save_file(changed(folder, **tensors), tmp_path / "bad.safetensors")
    require_line(run(folder, "evaluate", tmp_path / "bad.safetensors", "small.toml"), says)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["small.toml", "small.toml"], "small.toml: is not a safetensors file; save it with"),
        (["gone.safetensors", "small.toml"], "gone.safetensors: cannot be read: No such file"),
        (["theirs.safetensors", "gone.toml"], "scenario gone.toml not found"),
        (["theirs.safetensors"], "Missing argument"),
        (["theirs.safetensors"] * 2 + ["small.toml"], "two models are named 'theirs'; give each"),
        (
            ["theirs.safetensors", "small.toml", "--name", "a", "--name", "b"],
            "--name: 2 names for 1 models; give one for each, or none",
        ),
        (
            ["theirs.safetensors", "small.toml", "--name", "retrained"],
            "'retrained' names a row of its own; give --name another one",
        ),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], says: str, folder: Path) -> None:
    require_line(run(folder, "evaluate", *arguments), says)


def require_line(done: subprocess.CompletedProcess[str], says: str) -> None:
    assert done.returncode == 2
    assert says in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr and not done.stdout


def test_half_precision_will_do(folder: Path, tmp_path: Path) -> None:
    half = {name: tensor.bfloat16() for name, tensor in changed(folder).items()}
    save_file(half, tmp_path / "half.safetensors")
    (request,) = evaluated(folder, tmp_path / "half.safetensors", "small.toml")["requests"]
    assert 0.0 < request["methods"]["half"]["forget_js"] < 1.0
