"""The names that data give to nodes and classes, and the numbers that stand for them inside.

A name is a text, exactly as the data have it: ``007`` and ``7`` are two names. Inside of the
package a node or a class is its place in the order of the names; at every border it is its name.
"""

from __future__ import annotations

import decimal
import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal

from fedunlearn.errors import UnknownNameError

Name = str | int | float

# ASCII digits only: ``float`` would also read "1_11", "nan" and digits of other scripts.
DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,6})?")
MOST_NAME = 200  # characters of a name in a request
LISTED = 20
LONGEST = 40


def as_decimal(text: str) -> Decimal | None:
    """Return the value of a plain ASCII decimal, exactly; None for any other text."""
    if not DECIMAL.fullmatch(text):
        return None
    try:
        return Decimal(text)
    except decimal.InvalidOperation:
        return None


def in_order(texts: Iterable[str]) -> tuple[str, ...]:
    """Return distinct texts in order: by value where all are numbers, else as texts."""
    distinct = set(texts)
    values = {text: as_decimal(text) for text in distinct}
    if any(value is None for value in values.values()):
        return tuple(sorted(distinct))
    return tuple(sorted(distinct, key=lambda text: (values[text], text)))


def is_name(text: str) -> bool:
    """Return whether a request can name a node or class so: one printable line, not too long."""
    return 0 < len(text) <= MOST_NAME and text == text.strip() and text.isprintable()


def quoted(text: str) -> str:
    """Return a text in quotes for a message, shortened where it is long."""
    return repr(text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…")


@dataclass(frozen=True)
class Names:
    """The names of all nodes, or of all classes, by their numbers.

    Attributes:
        one: What they name, in the singular: "node" or "class".
        texts: The names; the place of each is its number.
        codes: Numbers that the data store for the names, where they store numbers; empty elsewhere.
    """

    one: str
    texts: tuple[str, ...]
    codes: tuple[str, ...] = ()

    @classmethod
    def numbered(cls, one: str, count: int) -> Names:
        """Return the names of things that have none but their number: ``0``, ``1``, ..."""
        return cls(one, tuple(map(str, range(count))))

    @classmethod
    def coded(cls, one: str, texts: Iterable[str]) -> Names:
        """Return names whose numbers the data store themselves, and users may know them by."""
        found = tuple(texts)
        return cls(one, found, tuple(map(str, range(len(found)))))

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.texts)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, by number."""
        return iter(self.texts)

    def __getitem__(self, number: int) -> str:
        """Return the name of a number."""
        return self.texts[number]

    @property
    def several(self) -> str:
        """What they name, in the plural."""
        return "classes" if self.one == "class" else f"{self.one}s"

    def number(self, name: Name, key: str) -> int:
        """Return the number of a name.

        A text of the data comes first. A number that is no such text stands for the only text of
        that value, as 1 for ``1.0``.

        Args:
            name: As a user gives it.
            key: Where the user gives it, for the error.

        Returns:
            Its place.

        Raises:
            UnknownNameError: There is no such name, or there are several of that value.
        """
        text = name if isinstance(name, str) else repr(name)
        if text in self.texts:
            return self.texts.index(text)
        value = as_decimal(text)
        if value is not None:
            same = [number for number, own in enumerate(self.texts) if as_decimal(own) == value]
            if len(same) > 1:
                which = ", ".join(quoted(self.texts[number]) for number in same)
                raise UnknownNameError(
                    f"{key}: {self.one} {text} could be any of {which}; give one of these in quotes"
                )
            if same:
                return same[0]
        # Where names are numbers, a code could be meant as the name of another.
        if text in self.codes and not any(as_decimal(own) is not None for own in self.texts):
            return self.codes.index(text)
        raise UnknownNameError(f"{key}: {self.one} {self.said(text)} does not exist; {self.listed}")

    def place(self, name: str) -> int:
        """Return the number of a name that the data must have, to the letter.

        Args:
            name: As a request gives it.

        Returns:
            Its place.

        Raises:
            UnknownNameError: The data do not have it.
        """
        if name in self.texts:
            return self.texts.index(name)
        raise UnknownNameError(f"{self.one} {self.said(name)} does not exist; {self.listed}")

    @property
    def listed(self) -> str:
        """Which names there are, as the end of a message."""
        if self.texts == tuple(map(str, range(len(self.texts)))):
            return f"{self.several} are 0 to {len(self.texts) - 1}"
        more = ", ..." if len(self.texts) > LISTED else ""
        return f"{self.several} are {', '.join(map(quoted, self.texts[:LISTED]))}{more}"

    def said(self, text: str) -> str:
        """Return an unknown name for a message, with the name that is most like it."""
        if as_decimal(text) is not None:
            return text
        close = difflib.get_close_matches(text, self.texts, n=1)
        return f"{quoted(text)} (did you mean {quoted(close[0])}?)" if close else quoted(text)


def listed(one: str, names: Iterable[str]) -> str:
    """Return names after the word for what they name, as ``nodes 1, 2`` or ``class cat``."""
    found = list(names)
    several = "classes" if one == "class" else f"{one}s"
    return f"{one if len(found) == 1 else several} {', '.join(found)}"


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint at the known word that is most like one that is unknown."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
