"""Replacement of node numbers in messages by the names that the data give to the nodes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from fedunlearn.errors import FedunlearnError, UnknownNameError
from fedunlearn.names import Names

_BY_NAME = "_by_name"
_NODES = re.compile(r"\b(nodes?) (\d+(?:, \d+)*)\b")


def by_name(text: str, names: Names) -> str:
    """Return a message of the federation with the names of nodes in place of their numbers.

    Args:
        text: A text that refers to nodes as "node 3" or "nodes 1, 2".
        names: Names of the nodes.

    Returns:
        The text; unchanged where the numbers are the names, or are not those of nodes.
    """

    def named(found: re.Match[str]) -> str:
        numbers = [int(number) for number in found[2].split(", ")]
        if any(number >= len(names) for number in numbers):
            return found[0]
        return f"{found[1]} {', '.join(names[number] for number in numbers)}"

    return _NODES.sub(named, text)


@contextmanager
def errors_by_name(names: Names) -> Iterator[None]:
    """Replace the numbers of nodes by their names in errors that leave the block.

    Yields:
        Nothing.

    Raises:
        FedunlearnError: The exception raised in the block.
    """
    try:
        yield
    except FedunlearnError as error:
        # An error that already has names must not be replaced again: a name may look like a number.
        if not isinstance(error, UnknownNameError) and not getattr(error, _BY_NAME, False):
            error.args = (by_name(str(error), names), *error.args[1:])
            setattr(error, _BY_NAME, True)
        raise
