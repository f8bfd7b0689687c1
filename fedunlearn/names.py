"""The names that data give to nodes and classes, and the numbers that represent them internally.

A name is a text, exactly as in the data: ``007`` and ``7`` are two names. Inside the package a node
or a class is its place in the order of the names; at every interface it is its name.
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
    """Return distinct texts in order: by value where all are numbers, otherwise as texts."""
    distinct = set(texts)
    values = {text: as_decimal(text) for text in distinct}
    if any(value is None for value in values.values()):
        return tuple(sorted(distinct))
    return tuple(sorted(distinct, key=lambda text: (values[text], text)))


def is_name(text: str) -> bool:
    """Return whether a text can be a name in a request: one printable line, not too long."""
    return 0 < len(text) <= MOST_NAME and text == text.strip() and text.isprintable()


def quoted(text: str) -> str:
    """Return a text in quotes for a message, shortened where it is long."""
    return repr(text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…")


@dataclass(frozen=True)
class Names:
    """The names of all nodes, or of all classes, by number.

    Attributes:
        one: The kind of thing that is named, in the singular: "node" or "class".
        texts: The names; the place of each is its number.
        codes: Numbers that the data store in place of the names; empty where they store the names.
    """

    one: str
    texts: tuple[str, ...]
    codes: tuple[str, ...] = ()

    @classmethod
    def numbered(cls, one: str, count: int) -> Names:
        """Return the names of things that have only a number: ``0``, ``1``, ..."""
        return cls(one, tuple(map(str, range(count))))

    @classmethod
    def coded(cls, one: str, texts: Iterable[str]) -> Names:
        """Return names that the data store as numbers, which users may also use."""
        found = tuple(texts)
        return cls(one, found, tuple(map(str, range(len(found)))))

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self.texts)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, by number."""
        return iter(self.texts)

    def __getitem__(self, number: int) -> str:
        """Return the name of a number."""
        return self.texts[number]

    @property
    def several(self) -> str:
        """The kind of thing that is named, in the plural."""
        return "classes" if self.one == "class" else f"{self.one}s"

    def number(self, name: Name, key: str) -> int:
        """Return the number of a name.

        A text that equals a name in the data takes precedence. A number that equals none refers to
        the only name of that value, as 1 to ``1.0``.

        Args:
            name: The name that a user gives.
            key: Place where the user gives it, for the error.

        Returns:
            The number of the name.

        Raises:
            UnknownNameError: There is no such name, or there are several with that value.
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
        # Where names are numbers, a code could be confused with the name of another.
        if text in self.codes and not any(as_decimal(own) is not None for own in self.texts):
            return self.codes.index(text)
        raise UnknownNameError(f"{key}: {self.one} {self.said(text)} does not exist; {self.listed}")

    def place(self, name: str) -> int:
        """Return the number of a name that must be exactly as in the data.

        Args:
            name: The name that a request gives.

        Returns:
            The number of the name.

        Raises:
            UnknownNameError: The data have no such name.
        """
        if name in self.texts:
            return self.texts.index(name)
        raise UnknownNameError(f"{self.one} {self.said(name)} does not exist; {self.listed}")

    @property
    def listed(self) -> str:
        """The list of names, as the end of a message."""
        if self.texts == tuple(map(str, range(len(self.texts)))):
            return f"{self.several} are 0 to {len(self.texts) - 1}"
        more = ", ..." if len(self.texts) > LISTED else ""
        return f"{self.several} are {', '.join(map(quoted, self.texts[:LISTED]))}{more}"

    def said(self, text: str) -> str:
        """Return an unknown name for a message, with the most similar known name."""
        if as_decimal(text) is not None:
            return text
        close = difflib.get_close_matches(text, self.texts, n=1)
        return f"{quoted(text)} (did you mean {quoted(close[0])}?)" if close else quoted(text)


def listed(one: str, names: Iterable[str]) -> str:
    """Return names after the word for their kind, as ``nodes 1, 2`` or ``class cat``."""
    found = list(names)
    several = "classes" if one == "class" else f"{one}s"
    return f"{one if len(found) == 1 else several} {', '.join(found)}"


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint at the known word that is most similar to an unknown one."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
