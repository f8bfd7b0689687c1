"""Names, help and docstrings are plain technical English: some words are not used."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from fedunlearn.cli.main import cli

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for path in sorted((ROOT / "fedunlearn").rglob("*.py"))
    if "rpc" not in path.relative_to(ROOT).parts
]

# Private metaphors; the field's words for them are in CONTRIBUTING and the documentation.
NOT_IN_TEXT = re.compile(
    r"\b(bury|buries|buried|tells?|told|hears?|heard|asking|going on|goes on|whoever|likewise)\b",
    re.IGNORECASE,
)
NOT_IN_NAMES = re.compile(
    r"(^|_)(bury|tells?|told|hears?|heard|asking|going_on|whoever|working|utils?|misc|helpers?)(_|$)"
)
# The name of the public method of an app's handle, and of what depends on whether it was called.
PUBLIC = {"kept"}


def documents(path: Path) -> Iterator[tuple[int, str]]:
    """The docstrings of a module, with their lines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                yield getattr(node, "lineno", 1), text


def names(path: Path) -> Iterator[tuple[int, str]]:
    """The names that a module defines: of functions, classes, arguments and attributes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.lineno, node.target.id


def commands(command: click.Command, name: str) -> Iterator[tuple[str, str]]:
    """Every command with the text of its help."""
    with click.Context(command, info_name=name) as context:
        yield name, command.get_help(context)
    if isinstance(command, click.Group):
        for own, below in command.commands.items():
            yield from commands(below, f"{name} {own}")


HELP = dict(commands(cli, "fedunlearn"))


@pytest.mark.parametrize("name", HELP)
def test_help_is_in_plain_words(name: str) -> None:
    assert not (found := NOT_IN_TEXT.findall(HELP[name])), found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_and_names_are_in_plain_words(path: Path) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {word[0] if isinstance(word, tuple) else word}"
        for line, text in documents(path)
        for word in NOT_IN_TEXT.findall(text)
    ]
    found += [
        f"{path.relative_to(ROOT)}:{line}: name {name}"
        for line, name in [*names(path), (1, path.stem)]
        if name not in PUBLIC and NOT_IN_NAMES.search(name)
    ]
    assert not found, "\n".join(found)


def test_no_module_has_more_than_400_lines() -> None:
    paths = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]
    long = [str(p.relative_to(ROOT)) for p in paths if len(p.read_text().splitlines()) > 400]
    assert not long
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
