"""Quoting of untrusted values in messages."""

from __future__ import annotations

MOST = 100


def quoted(value: object, most: int = MOST) -> str:
    """Return a value as one short line without control characters, safe for terminals and logs.

    Args:
        value: Value from a file, a receipt or a database, which may be forged.
        most: Largest number of characters; the rest is left out.
    """
    text = str(value)
    short = text if len(text) <= most else f"{text[:most]}..."
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in short)
