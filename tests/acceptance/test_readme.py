"""The README's code runs, its commands exist, its help and keys are those of the program."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from fedunlearn.scenario.sections import Scenario
from fedunlearn.service.service_settings import ServiceSettings
from fedunlearn.unlearning.registry import make_method, method_names
from fedunlearn.worker.worker_settings import WorkerSettings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_task_of_the_readme_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    program = tmp_path / "wine.py"
    for transport in ("inline", "flower"):
        program.write_text(code.replace('transport="inline"', f'transport="{transport}"'))
        done = subprocess.run(
            [sys.executable, program], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert "torch.Size([275])" in done.stdout


def test_the_help_of_the_readme_is_the_programs() -> None:
    command = Path(sys.executable).with_name("fedunlearn")
    environment = {**os.environ, "COLUMNS": "100"}
    done = subprocess.run([command, "--help"], capture_output=True, text=True, env=environment)
    assert f"$ fedunlearn --help\n{done.stdout.rstrip()}\n```" in README


def test_make_has_the_targets_of_the_readme() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"`?make (\w+)", README))
    assert {"demo", "test"} <= named
    assert named <= set(re.findall(r"^(\w+):", makefile, re.MULTILINE))


def keys_of(model: type[BaseModel]) -> set[str]:
    return {f.alias or name for name, f in model.model_fields.items() if name != "of_method"}


SECTIONS = {name: field.annotation for name, field in Scenario.model_fields.items()} | {
    f"unlearning.{name}": make_method(name, {}).settings_type for name in method_names()
}


@pytest.mark.parametrize("section", SECTIONS)
def test_the_readme_lists_every_key(section: str) -> None:
    (row,) = re.findall(rf"^\| `\[{re.escape(section)}\]` \| (.*) \|$", README, re.MULTILINE)
    model = SECTIONS[section]
    assert model is not None
    assert set(re.findall(r"`([a-z-]+)`", row)) == keys_of(model)


def keys_below(settings: type[BaseModel]) -> set[str]:
    """The keys of settings and of the tables in them."""
    found = set()
    for name, field in settings.model_fields.items():
        found.add(field.alias or name.replace("_", "-"))
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= keys_below(field.annotation)
    return found


@pytest.mark.parametrize(
    ("file", "settings"), [("service.toml", ServiceSettings), ("worker.toml", WorkerSettings)]
)
def test_the_readme_lists_every_key_of_the_service(file: str, settings: type[BaseModel]) -> None:
    (row,) = re.findall(rf"^\| `{re.escape(file)}` \| (.*) \|$", README, re.MULTILINE)
    assert set(re.findall(r"`\[?([a-z-]+)\]?`", row)) == keys_below(settings)
