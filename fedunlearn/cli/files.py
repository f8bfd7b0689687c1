"""Checks of the folder that a command writes to."""

from __future__ import annotations

import os
from pathlib import Path

from fedunlearn.errors import InputError


def require_writable(out: Path, option: str = "--out") -> None:
    """Refuse a folder that cannot be written to, before the work starts.

    Args:
        out: The folder, which need not be there.
        option: The option that names it, for the message.

    Raises:
        InputError: The folder cannot be written to.
    """
    existing = out
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{option} {out}: {existing} is not a folder that can be written to")
