"""The apps in examples/: complete, and little different from the same app that cannot forget."""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMES = sorted(folder.name for folder in EXAMPLES.iterdir() if folder.is_dir())
APPS = [EXAMPLES / name / side for name in NAMES for side in ("plain", "forgetting")]
SIDES = ("client_app.py", "server_app.py")
MOST_ADDED = 10
MOST_FILES, MOST_BYTES = 1000, 1_000_000


def settings(app: Path) -> dict[str, Any]:
    return tomllib.loads((app / "pyproject.toml").read_text())


def package(app: Path) -> str:
    found: str = settings(app)["tool"]["flwr"]["app"]["components"]["serverapp"]
    return found.partition(".")[0]


def lines(name: str, side: str, file: str) -> list[str]:
    app = EXAMPLES / name / side
    return (app / package(app) / file).read_text().splitlines()


def difference(name: str, file: str) -> list[str]:
    before, after = lines(name, "plain", file), lines(name, "forgetting", file)
    return list(difflib.unified_diff(before, after, "plain", "forgetting", n=1, lineterm=""))[2:]


def files(app: Path) -> list[Path]:
    return [one for one in app.rglob("*") if one.is_file() and "__pycache__" not in one.parts]


def test_there_are_apps_to_copy() -> None:
    assert {"hospitals", "images", "text"} <= set(NAMES)


@pytest.mark.parametrize("file", SIDES)
@pytest.mark.parametrize("name", NAMES)
def test_an_app_that_forgets_has_at_most_ten_more_lines_a_side(name: str, file: str) -> None:
    changed = [line for line in difference(name, file) if line[0] != "@"]
    added = [line for line in changed if line[0] == "+" and line[1:].strip()]
    assert 0 < len(added) <= MOST_ADDED
    assert not [line for line in changed if line[0] == "-"]


@pytest.mark.parametrize("name", NAMES)
def test_all_else_is_the_same(name: str) -> None:
    plain, forgetting = EXAMPLES / name / "plain", EXAMPLES / name / "forgetting"
    inside = {one.relative_to(forgetting) for one in files(forgetting)}
    assert inside == {one.relative_to(plain) for one in files(plain)}
    for one in inside:
        if one.suffix == ".py" and one.name not in SIDES:
            assert (plain / one).read_bytes() == (forgetting / one).read_bytes(), one


@pytest.mark.parametrize("file", SIDES)
@pytest.mark.parametrize("name", NAMES)
def test_the_readme_shows_the_difference(name: str, file: str) -> None:
    readme = (EXAMPLES / name / "forgetting" / "README.md").read_text()
    shown = re.findall(r"```diff\n(.*?)\n```", readme, re.DOTALL)
    body = [line[:2] if line[0] == "@" else line for line in difference(name, file)]
    wanted = "\n".join(line if line.strip() else "" for line in body)
    assert f"# {file}\n{wanted}" in shown


@pytest.mark.parametrize("app", APPS, ids=lambda app: f"{app.parent.name}-{app.name}")
def test_metadata_are_as_the_hub_asks(app: Path) -> None:
    found = settings(app)
    project, flower = found["project"], found["tool"]["flwr"]["app"]
    assert project["license"] == {"file": "LICENSE"} and (app / "LICENSE").read_text()
    assert project["readme"] == "README.md" and project["description"] and project["version"]
    needed = " ".join(project["dependencies"])
    assert all(name in needed for name in ("flwr", "torch"))
    assert ("fedunlearn" in needed) == (app.name == "forgetting")
    assert flower["publisher"] and flower["fab-format-version"] == 1
    assert re.fullmatch(r"1\.\d+\.\d+", flower["flwr-version-target"])
    for part in ("serverapp", "clientapp"):
        module, _, name = flower["components"][part].partition(":")
        assert f"\n{name} = " in (app / f"{module.replace('.', '/')}.py").read_text()
    for key, value in flower["config"].items():
        assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", key) and isinstance(
            value, str | int | float
        )
    assert (app / package(app) / "task.py").exists()
    sizes = [one.stat().st_size for one in files(app)]
    assert len(sizes) <= MOST_FILES and max(sizes) <= MOST_BYTES


@pytest.mark.parametrize("app", APPS, ids=lambda app: f"{app.parent.name}-{app.name}")
def test_a_readme_begins_with_what_the_hub_lists(app: Path) -> None:
    front = re.match(r"---\n(.*?)\n---\n\n# ", (app / "README.md").read_text(), re.DOTALL)
    assert front
    entries = dict(line.split(": ", 1) for line in front[1].splitlines())
    assert set(entries) == {"title", "url", "labels", "dataset"}
    assert entries["url"].startswith("https://")
    assert 4 <= entries["labels"].count(",") + 1 <= 10
    assert "flwr run ." in (app / "README.md").read_text()
