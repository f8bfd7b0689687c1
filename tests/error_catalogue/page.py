"""The page of the documentation, read and, as ``python -m``, given the messages of today."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedunlearn.service.errors import Reason
from tests.error_catalogue.exceptions import EXCEPTIONS
from tests.error_catalogue.reasons import refusals

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "errors.md"
ENTRY = re.compile(
    r"^### `(?P<name>\w+)` \{ #(?P<anchor>\w+) \}\n\n"
    r"\*(?P<status>[^*]+)\*\n\n"
    r"\*\*Cause\.\*\* (?P<cause>[^\n]+)\n\n"
    r"\*\*Remedy\.\*\* (?P<remedy>[^\n]+)\n"
    r"(?:\n```text\n(?P<example>[^\n]+)\n```\n)?",
    re.MULTILINE,
)
# What differs from run to run, and what stands for it.
VARYING = (
    (re.compile(r"\b[0-9a-f]{64}\b"), "SHA256"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "ID"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?([+-]\d\d:\d\d|Z)"), "TIME"),
    (re.compile(r"fedunlearn:[0-9a-f]{16}"), "AUDIENCE"),
    (re.compile(r"\(failed to connect[^)]*\)"), "(CAUSE)"),  # gRPC's own words
)


@dataclass(frozen=True)
class Entry:
    """One error as the page has it."""

    anchor: str
    status: str
    cause: str
    remedy: str
    example: str | None


def entries(text: str) -> dict[str, Entry]:
    """Return the entries of the page, each of which must be there once."""
    found: dict[str, Entry] = {}
    for match in ENTRY.finditer(text):
        name = match["name"]
        assert name not in found, f"{name} has two entries"
        found[name] = Entry(
            match["anchor"], match["status"], match["cause"], match["remedy"], match["example"]
        )
    return found


def shown(message: str, folder: Path) -> str:
    """Return a message as the page shows it."""
    message = message.replace(str(folder), "FOLDER")
    for pattern, name in VARYING:
        message = pattern.sub(name, message)
    return message


def message_of(name: str, folder: Path) -> str:
    """Produce an exception, and return its message as the page shows it."""
    with pytest.raises(Exception) as caught:
        EXCEPTIONS[name](folder)
    assert type(caught.value).__name__ == name, f"{type(caught.value).__name__}: {caught.value}"
    return shown(str(caught.value), folder)


def in_order() -> list[Reason]:
    """Return all reasons, the end of the service last."""
    return sorted(Reason, key=lambda reason: reason is Reason.SERVER_STOPPING)


def with_examples(text: str, messages: Mapping[str, str]) -> str:
    """Return the page with these messages as its examples."""

    def replaced(match: re.Match[str]) -> str:
        if match["example"] is None:
            return match[0]
        head = match[0][: match.start("example") - match.start()]
        return head + messages[match["name"]] + match[0][match.end("example") - match.start() :]

    return ENTRY.sub(replaced, text)


def main() -> None:
    """Write the messages of today into the page."""
    messages = {}
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        root = Path(name)
        for error in EXCEPTIONS:
            (folder := root / error).mkdir()
            messages[error] = message_of(error, folder)
        with refusals(root, patch) as service:
            for reason in in_order():
                answer = service.refused(reason)
                assert answer.reason == reason, answer
                messages[reason] = shown(answer.message, root)
    PAGE.write_text(with_examples(PAGE.read_text(encoding="utf-8"), messages), encoding="utf-8")


if __name__ == "__main__":
    main()
