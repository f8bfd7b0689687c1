"""Numbers of nodes in what is said inside, as the names that the data give them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from fedunlearn.errors import FedunlearnError, UnknownNameError
from fedunlearn.names import Names

_BY_NAME = "_by_name"
_NODES = re.compile(r"\b(nodes?) (\d+(?:, \d+)*)\b")


def by_name(text: str, names: Names) -> str:
    """Return a text of the federation's with the names of nodes in the place of their numbers.

    Args:
        text: In which nodes are called "node 3" or "nodes 1, 2".
        names: Of the nodes.

    Returns:
        The text; the same where numbers are the names, or are of no node.
    """

    def named(found: re.Match[str]) -> str:
        numbers = [int(number) for number in found[2].split(", ")]
        if any(number >= len(names) for number in numbers):
            return found[0]
        return f"{found[1]} {', '.join(names[number] for number in numbers)}"

    return _NODES.sub(named, text)


@contextmanager
def errors_by_name(names: Names) -> Iterator[None]:
    """Let errors that leave a federation call nodes by name.

    Yields:
        Nothing.

    Raises:
        FedunlearnError: What was raised in the block.
    """
    try:
        yield
    except FedunlearnError as error:
        # One that speaks of names already must not be read as one of numbers: a name may be one.
        if not isinstance(error, UnknownNameError) and not getattr(error, _BY_NAME, False):
            error.args = (by_name(str(error), names), *error.args[1:])
            setattr(error, _BY_NAME, True)
        raise
