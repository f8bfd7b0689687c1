"""The pages of the documentation, and the blocks of code in them.

A comment before a block says what is special about it:

    <!-- not run: why -->     compiled only
    <!-- file: path -->       a file that the page asks its reader to save
    <!-- files: a b -->       run beside files of these names, which the test makes
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(
    r"^(?P<indent> *)(?:<!-- (?P<marker>[^\n]*?) -->\n\s*)?```(?P<language>[\w-]*)[^\n]*\n"
    r"(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: Of the block, from the root of the repository.
        line: Its number there.
        language: After the fence.
        marker: Kind of the comment before it; empty without one.
        given: What the comment says.
        text: Its content.
    """

    page: str
    line: int
    language: str
    marker: str
    given: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        marker, _, given = (match["marker"] or "").partition(": ")
        indent = match["indent"]
        yield Block(
            str(page.relative_to(ROOT)),
            text.count("\n", 0, match.start()) + 1,
            match["language"],
            marker,
            given,
            re.sub(rf"^{indent}", "", match["text"], flags=re.MULTILINE),
        )


BLOCKS = [block for page in PAGES for block in blocks(page)]


def in_language(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


@dataclass(frozen=True)
class Line:
    """A command line of a console block."""

    block: Block
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.block}: {' '.join(self.words)}"


def command_lines(block: Block) -> Iterator[Line]:
    """Yield the commands of a console block; one goes on where a quote is open."""
    lines = iter(block.text.splitlines())
    for line in lines:
        if not line.startswith("$ "):
            continue
        text = line[2:]
        while (words := _split(text)) is None:
            text += "\n" + next(lines)
        yield Line(block, words)


def _split(text: str) -> tuple[str, ...] | None:
    """Return the words of a command, or None where a quote is open."""
    try:
        return tuple(shlex.split(text, comments=True))
    except ValueError:
        return None


LINES = [line for block in in_language("console") for line in command_lines(block)]
