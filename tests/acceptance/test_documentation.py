"""What the documentation names exists: commands, options, targets, keys, defaults, files."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from pydantic import BaseModel

from fedunlearn.cli.main import cli
from fedunlearn.operator.app_folder import AppSettings
from fedunlearn.scenario.data import DataSettings
from fedunlearn.scenario.loading import load_scenario
from fedunlearn.scenario.sections import Scenario
from fedunlearn.service.errors import CODES
from fedunlearn.service.service_settings import ServiceSettings
from fedunlearn.unlearning.registry import make_method, method_names
from fedunlearn.worker.worker_settings import WorkerSettings
from tests.documentation import BLOCKS, DOCS, LINES, README, ROOT, Block, Line, in_language

SCENARIOS = (DOCS / "reference" / "scenarios.md").read_text(encoding="utf-8")
SETTINGS = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
LANGUAGES = {"python", "pycon", "console", "toml", "text", "protobuf"}
# Programs of others, and of the shell.
OTHERS = {"export", "flower-supernode", "flwr", "jupyter", "pip", "python"}
MOST_LINES = 150
LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_says_what_it_is(block: Block) -> None:
    assert block.language in LANGUAGES
    assert block.marker in {"", "not run", "file", "files"}
    assert not block.marker or block.given


@pytest.mark.parametrize("block", in_language("python"), ids=str)
def test_every_block_of_python_compiles(block: Block) -> None:
    ast.parse(block.text)


READMES = [
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "*README.md"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
]


@pytest.mark.parametrize("page", READMES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_readme_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    found = set()
    for heading in re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        given = re.search(r"\{ #([\w.-]+) \}$", heading)
        plain = re.sub(r"[^\w\s-]", "", heading.lower()).strip()
        found.add(given[1] if given else re.sub(r"\s+", "-", plain))
    return found


@pytest.mark.parametrize("line", LINES, ids=str)
def test_every_command_exists_with_its_options(line: Line) -> None:
    program = Path(line.words[0]).name
    if program == "make":
        targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert set(line.words[1:]) <= targets
    elif program == "fedunlearn":
        require_command(list(line.words[1:]))
    else:
        assert program in OTHERS


def require_command(words: list[str]) -> None:
    """Refuse a command line with a command, option or argument that there is not."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words.pop(0))
        assert found is not None
        command, context = found, click.Context(found, parent=context)
    assert not isinstance(command, click.Group) or words, "a group without a command"
    options, left, _ = command.make_parser(context).parse_args(words)
    if "help" not in options:
        for one in command.params:
            given = isinstance(options.get(one.name), str | tuple | list) and options[one.name]
            assert given or not one.required or one.envvar, one.name
    assert not left


@pytest.mark.parametrize("words", ["request crate --node 3", "request create --nod 3", "compare"])
def test_a_command_that_is_not_there_is_found(words: str) -> None:
    with pytest.raises((AssertionError, click.UsageError)):
        require_command(words.split())


@pytest.mark.parametrize("block", in_language("toml"), ids=str)
def test_every_toml_block_is_valid(block: Block, tmp_path: Path) -> None:
    found = tomllib.loads(block.text)
    if found.get("data", {}).get("name") == "tumours":
        return  # its page adds the data set, and the test of that page runs the scenario
    if set(found) <= set(Scenario.model_fields):
        path = tmp_path / "scenario.toml"
        path.write_text(block.text)
        (tmp_path / "patients.csv").touch()
        unlearning = load_scenario(path).settings.unlearning
        for name in set(unlearning.methods) - {"retain-steps"}:  # which that page adds
            make_method(name, unlearning.of_method.get(name, {}))
    elif "fedunlearn" in found.get("tool", {}):
        AppSettings.model_validate(found["tool"]["fedunlearn"])
    else:
        assert "project" in found or "superlink" in found


def test_the_help_of_the_commands_page_is_the_programs() -> None:
    command = Path(sys.executable).with_name("fedunlearn")
    environment = {**os.environ, "COLUMNS": "100"}
    done = subprocess.run([command, "--help"], capture_output=True, text=True, env=environment)
    page = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    assert f"$ fedunlearn --help\n{done.stdout.rstrip()}\n```" in page


def section(page: str, heading: str) -> dict[str, str]:
    """Return the keys of the table below a heading, and what stands in the second column."""
    pattern = rf"^## {re.escape(heading)}(?: \{{ #\S+ \}})?\n(.*?)(?=^## |\Z)"
    (text,) = re.findall(pattern, page, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| `\[?([\w.-]+)\]?` \| ?(.*?) ?\|(?: .* \|)?$", text, re.MULTILINE)
    assert len(dict(rows)) == len(rows)
    return dict(rows)


def of_model(model: type[BaseModel]) -> dict[str, Any]:
    """Return the keys and defaults of settings, those of tables in them too."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if name == "of_method":
            continue
        key = field.alias or name.replace("_", "-")
        found[key] = field.get_default(call_default_factory=True)
        inner = field.annotation
        if isinstance(found[key], BaseModel) and inner is not None:
            found[key] = ...
            found |= of_model(inner)
    return found


def require_table(shown: dict[str, str], model: type[BaseModel], *filled: str) -> None:
    """Compare a table with settings; some keys have a default that depends on others."""
    wanted = of_model(model)
    assert set(shown) == set(wanted)
    for key, default in wanted.items():
        if default is ...:
            assert shown[key] == ""
        elif default is None or key in filled:
            assert shown[key] == "-", key
        else:
            given = tomllib.loads(f"value = {shown[key].strip('`')}")["value"]
            assert (tuple(given) if isinstance(given, list) else given) == default, key


DATA_TABLES = {"data.backdoor": "backdoor", "data.shifted-labels": "shifted_labels"}
SECTIONS = {name: field.annotation for name, field in Scenario.model_fields.items()} | {
    name: DataSettings.model_fields[key].annotation for name, key in DATA_TABLES.items()
}
METHODS = {f"unlearning.{name}": make_method(name, {}).settings_type for name in method_names()}


@pytest.mark.parametrize("name", SECTIONS | METHODS)
def test_every_key_of_a_scenario_is_listed_with_its_default(name: str) -> None:
    model: Any = (SECTIONS | METHODS)[name]
    if name in DATA_TABLES:
        (model,) = (one for one in model.__args__ if one is not type(None))
    require_table(section(SCENARIOS, f"`[{name}]`"), model)


@pytest.mark.parametrize(
    ("heading", "model"),
    [
        ("`service.toml`", ServiceSettings),
        ("`worker.toml`", WorkerSettings),
        ("`[tool.fedunlearn]`", AppSettings),
    ],
)
def test_every_setting_is_listed_with_its_default(heading: str, model: type[BaseModel]) -> None:
    require_table(section(SETTINGS, heading), model)


def test_the_run_config_is_that_of_the_deployment_app() -> None:
    app = tomllib.loads((ROOT / "simulations/deployment/app/pyproject.toml").read_text())
    config = app["tool"]["flwr"]["app"]["config"]
    shown = section(SETTINGS, "Run config of the deployment app")
    assert {k: tomllib.loads(f"v = {v.strip('`')}")["v"] for k, v in shown.items()} == config


def test_every_variable_and_key_of_a_node_config_is_listed() -> None:
    sources = [path.read_text() for path in (ROOT / "fedunlearn").rglob("*.py")]
    used = {name for text in sources for name in re.findall(r"\bFEDUNLEARN_[A-Z]+\b", text)}
    assert used == {n for n in section(SETTINGS, "Environment variables") if n.startswith("FED")}
    settings = (ROOT / "fedunlearn/flower/node_settings.py").read_text()
    keys = set(re.findall(r'config(?:\.get\(|\[|, )"([\w-]+)"', settings)) | {"name"}
    assert set(section(SETTINGS, "Node config")) == keys


def test_the_status_codes_of_the_protobuf_page_are_those_of_the_service() -> None:
    page = (DOCS / "reference" / "protobuf.md").read_text(encoding="utf-8")
    shown = {}
    for code, reasons in re.findall(r"^\| `([A-Z_]+)` \| (.*) \|$", page, re.MULTILINE):
        shown |= dict.fromkeys(re.findall(r"`(\w+)`", reasons), code)
    assert shown == {str(reason): code.name for reason, code in CODES.items()}
    for proto in ("deletion", "session"):
        assert f'--8<-- "protos/fedunlearn/rpc/v1/{proto}.proto"' in page


def test_the_layers_of_the_architecture_page_are_those_that_are_checked() -> None:
    page = (DOCS / "concepts" / "architecture.md").read_text(encoding="utf-8")
    table = page.split("## Layers")[1].split("Further rules")[0]
    shown = [
        name
        for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", cell)
    ]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (layers,) = (
        one["layers"] for one in project["tool"]["importlinter"]["contracts"] if "layers" in one
    )
    level = {
        name.removeprefix("fedunlearn."): height
        for height, layer in enumerate(layers)
        for name in layer.split(" | ")
    }
    assert set(shown) == set(level)
    assert [level[name] for name in shown] == sorted(level.values())
