"""Lists of positions of records: ``3,5,7-9``, or one position a line in a file."""

from __future__ import annotations

import re
from pathlib import Path

from fedunlearn.errors import InputError

MOST_RECORDS = 100_000
SHOWN = 12
_LIST = re.compile(r"[0-9,\s-]*")
_ITEM = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")


def positions(text: str) -> list[int]:
    """Return the positions in a list, or in a file with a list.

    Args:
        text: Positions and ranges, separated by commas or blanks, or the path of a file of these.

    Returns:
        The positions, ascending and unique.

    Raises:
        InputError: An item is neither a position nor an ascending range, or the file cannot be
            read.
    """
    if _LIST.fullmatch(text):
        return _listed(text, text)
    try:
        content = Path(text).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError):
        raise InputError(
            f"--records: {text} is neither a list such as 3,5,7-9 nor a readable file"
        ) from None
    return _listed(content, f"the file {text}")


def shown(numbers: list[int]) -> str:
    """Return positions as a text with ranges; of many positions, only the first ones."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    parts = [f"{first}-{last}" if last > first else str(first) for first, last in ranges[:SHOWN]]
    return ", ".join(parts) + (", ..." if len(ranges) > SHOWN else "")


def _listed(text: str, where: str) -> list[int]:
    items = re.split(r"\s*,\s*|\s+", text.strip())
    bounds = [_bounds(item, where) for item in items]
    if sum(last + 1 - first for first, last in bounds) > MOST_RECORDS:
        raise InputError(
            f"--records: names more than {MOST_RECORDS}; split them into several requests"
        )
    return sorted({number for first, last in bounds for number in range(first, last + 1)})


def _bounds(item: str, where: str) -> tuple[int, int]:
    found = _ITEM.fullmatch(item)
    if found is None:
        what = f"{item[:40]!r} in {where}" if item else f"an empty item in {where}"
        raise InputError(
            f"--records: {what} is not a position; give positions and ranges, as 3,5,7-9"
        )
    first, last = int(found[1]), int(found[2] or found[1])
    if last < first:
        raise InputError(
            f"--records: {item} in {where} is empty; a range is ascending, as {last}-{first}"
        )
    return first, last
