"""Where commands write, and how: whole files or none."""

from __future__ import annotations

import os
from pathlib import Path

from fedunlearn.errors import InputError


def require_writable(out: Path) -> None:
    """Refuse a folder that cannot be written, before the work and not after it.

    Raises:
        InputError: It cannot.
    """
    existing = out
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"--out {out}: {existing} is not a folder that can be written to")


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
