"""Scenarios from TOML files and ``--set`` overrides, with errors that name key and remedy."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from fedunlearn.errors import ScenarioError
from fedunlearn.names import nearest
from fedunlearn.scenario.sections import Scenario
from fedunlearn.toml import read_toml

TomlTable = dict[str, object]

# Keys whose values are names of nodes or classes.
NAMES = frozenset(
    {
        "forget.class",
        "forget.nodes",
        "data.backdoor.nodes",
        "data.backdoor.target",
        "data.shifted-labels.nodes",
    }
)
# An item of a list: a text in quotes, which may contain commas, or the text between two commas.
_ITEM = re.compile(r"""\s*"(?:[^"\\]|\\.)*"|\s*'[^']*'|[^,]+""")


@dataclass(frozen=True)
class LoadedScenario:
    """A scenario with its name and folder.

    Attributes:
        name: File name without its ending.
        folder: Where relative paths of the scenario are looked up.
        settings: Its sections.
    """

    name: str
    folder: Path
    settings: Scenario


def load_scenario(path: Path, overrides: Sequence[str] = ()) -> LoadedScenario:
    """Read a scenario file.

    Args:
        path: A TOML file.
        overrides: ``section.key=value`` with TOML values; a bare word counts as a string.

    Returns:
        The scenario and its folder.

    Raises:
        ScenarioError: The file is missing or not TOML, or a key or value cannot be used.
    """
    try:
        table = read_toml(path, ScenarioError, "scenario")
    except FileNotFoundError:
        raise ScenarioError(f"scenario {path} not found; give the path of a TOML file") from None
    return LoadedScenario(path.stem, path.parent, parse_scenario(table, overrides, str(path)))


def load_scenarios(paths: Sequence[Path], overrides: Sequence[str] = ()) -> list[LoadedScenario]:
    """Read several scenario files, which must have different names.

    Args:
        paths: TOML files.
        overrides: See ``load_scenario``; they apply to each scenario.

    Returns:
        The scenarios, in the order given.

    Raises:
        ScenarioError: A scenario cannot be used, or two have the same name.
    """
    loaded = [load_scenario(path, overrides) for path in paths]
    names = [one.name for one in loaded]
    for name in names:
        if names.count(name) > 1:
            raise ScenarioError(f"two scenarios are named {name}; rename one, or compare it alone")
    return loaded


def parse_scenario(
    table: TomlTable, overrides: Sequence[str] = (), source: str = "scenario"
) -> Scenario:
    """Check a scenario's tables.

    Args:
        table: The tables as read from TOML; the overrides change them.
        overrides: See ``load_scenario``.
        source: Name of the scenario in errors.

    Returns:
        The scenario.

    Raises:
        ScenarioError: A key or value cannot be used.
    """
    for override in overrides:
        _apply(table, override)
    try:
        return Scenario.model_validate(table)
    except ValidationError as error:
        raise ScenarioError(f"{source}: {first_complaint(error, Scenario)}") from None


def first_complaint(error: ValidationError, model: type[BaseModel]) -> str:
    """Describe the first wrong key in one line: its name, the reason and what is allowed."""
    details = error.errors()
    location = _location(details[0]["loc"], model)
    same = [detail for detail in details if _location(detail["loc"], model)[:2] == location[:2]]
    key = ".".join(str(part) for part in location)
    first = same[0]
    if first["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        hint = nearest(str(location[-1]), known)
        return f"{key}: unknown key{hint}; known keys here are {', '.join(known)}"
    if first["type"] == "value_error":  # of a settings' validator: the message names the key
        return f"{key}.{first['ctx']['error']}" if key else str(first["ctx"]["error"])
    if any(key == name or key.startswith(f"{name}.") for name in NAMES):
        return f"{key}: must be a name in quotes, or a list of names, not {first['input']!r}"
    wishes = list(dict.fromkeys(_wish(detail["msg"]) for detail in same))
    given = first["input"]
    return f"{key}: {' or '.join(wishes)}, not {given!r}"


def _apply(table: TomlTable, override: str) -> None:
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or len(path) < 2 or not all(path):
        raise ScenarioError(f"--set {override}: use section.key=value, as in data.seed=1")
    for part in path[:-1]:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ScenarioError(f"--set {override}: {part!r} is a value, not a section")
        table = inner
    is_name = ".".join(path) in NAMES
    table[path[-1]] = _names(text.strip()) if is_name else _toml_value(text.strip())


def _names(text: str) -> Any:
    """Return a name or a list of names as written: 007, 1_11 and 1e10 are texts."""
    if text.startswith("[") and text.endswith("]"):
        items = [item.strip() for item in _ITEM.findall(text[1:-1])]
        return [_names(item) for item in items if item]
    value = _toml_value(text)
    return value if isinstance(value, str) else text


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _location(location: tuple[int | str, ...], model: type[BaseModel]) -> tuple[int | str, ...]:
    """Return a location without the parts that pydantic adds for the members of a union."""
    own: list[int | str] = []
    section: type[BaseModel] | None = model
    for part in location:
        if section is not None or isinstance(part, int):
            own.append(part)
        section = _section(section, part)
    return tuple(own)


def _section(model: type[BaseModel] | None, key: int | str) -> type[BaseModel] | None:
    """Return the settings under a key, or None where it holds a value."""
    for name, field in model.model_fields.items() if model else ():
        if (field.alias or name) == key:
            for inner in (field.annotation, *get_args(field.annotation)):
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    return inner
    return None


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    section: type[BaseModel] | None = model
    for part in location:
        section = _section(section, part)
    fields = section.model_fields if section else {}
    return [field.alias or name for name, field in fields.items() if name != "of_method"]


def _wish(message: str) -> str:
    if "pathlib" in message:
        return "must be a path"
    return message.replace("Input should", "must").replace("a valid tuple", "a list")
