"""The catalogue of errors is complete, and every error in it is produced by a real call."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedunlearn import errors
from fedunlearn.cli import main as command
from fedunlearn.service.errors import CODES, RETRY_S, Reason
from tests.error_catalogue.exceptions import EXCEPTIONS
from tests.error_catalogue.page import PAGE, entries, in_order, message_of, shown
from tests.error_catalogue.reasons import Refusals, refusals

TEXT = PAGE.read_text(encoding="utf-8")
ENTRIES = entries(TEXT)
CLASSES = {
    name: one
    for name, one in vars(errors).items()
    if inspect.isclass(one) and issubclass(one, errors.FedunlearnError)
}
# Raised only as one of their subclasses.
FAMILIES = {"RequestError"}
FRESH = "the page shows another message; 'python -m tests.error_catalogue.page' writes today's"


def test_every_exception_and_every_reason_has_one_entry() -> None:
    assert set(ENTRIES) == set(CLASSES) | set(Reason)
    assert TEXT.count("\n### ") == len(ENTRIES)
    for name, entry in ENTRIES.items():
        assert entry.anchor == name
        assert entry.cause.endswith(".") and entry.remedy.endswith("."), name
        assert (entry.example is None) == (name in FAMILIES), name


def test_the_tree_of_the_page_is_that_of_the_classes() -> None:
    tree = TEXT.split("```text\n")[1].split("```")[0].splitlines()
    above: list[str] = []
    found = {}
    for line in tree:
        name = line.lstrip("│ ├└─")
        depth = (len(line) - len(name)) // 4
        above[depth:] = [name]
        found[name] = above[depth - 1] if depth else "Exception"
    assert found == {name: one.__base__.__name__ for name, one in CLASSES.items()}


@pytest.mark.parametrize("name", CLASSES)
def test_the_exit_status_is_that_of_the_command(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        more = {"code": "UNAVAILABLE"} if name == "ServiceError" else {}
        raise CLASSES[name]("a line", **more)

    monkeypatch.setattr(command.cli, "main", fail)
    monkeypatch.setattr(sys, "argv", ["fedunlearn"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ENTRIES[name].status == f"Exit status {ended.value.code}"
    assert capsys.readouterr().err == "fedunlearn: a line\n"


def test_the_exit_statuses_are_those_of_the_command() -> None:
    rows = TEXT.split("## Exit status")[1].split("## Exceptions")[0]
    for status in (command.DONE, command.FAILED, command.UNUSABLE, command.INTERRUPTED):
        assert f"\n| {status} | " in rows


@pytest.mark.parametrize("reason", Reason)
def test_the_status_code_is_that_of_the_service(reason: Reason) -> None:
    retry = RETRY_S.get(reason)
    extra = "" if retry is None else f", try again after {retry:g} s"
    assert ENTRIES[reason].status == f"Status {CODES[reason].name}{extra}"


def test_families_are_never_raised_themselves() -> None:
    assert set(EXCEPTIONS) == set(CLASSES) - FAMILIES
    for file in (Path(errors.__file__).parent).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = getattr(node.func, "id", getattr(node.func, "attr", ""))
                assert called not in FAMILIES, file


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_every_exception_is_raised_with_the_message_of_the_page(name: str, tmp_path: Path) -> None:
    assert message_of(name, tmp_path) == ENTRIES[name].example, FRESH


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Refusals, Path]]:
    folder = tmp_path_factory.mktemp("service")
    with pytest.MonkeyPatch.context() as patch, refusals(folder, patch) as opened:
        yield opened, folder


@pytest.mark.parametrize("reason", in_order())
def test_every_reason_is_given_with_the_message_of_the_page(
    service: tuple[Refusals, Path], reason: Reason
) -> None:
    refusing, folder = service
    answer = refusing.refused(reason)
    assert (answer.code, answer.reason) == (CODES[reason].name, reason)
    assert shown(answer.message, folder) == ENTRIES[reason].example, FRESH
