"""What others wrote, as it may stand in a message."""

from __future__ import annotations

MOST = 100


def quoted(value: object, most: int = MOST) -> str:
    """Return a value as one short line that steers no terminal and forges no line of a log.

    Args:
        value: Of a file, a receipt or a database that may have been made up.
        most: Characters; the rest is left out.
    """
    text = str(value)
    short = text if len(text) <= most else f"{text[:most]}..."
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in short)
