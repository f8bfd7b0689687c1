"""TOML files, as editors and people leave them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from fedunlearn.errors import InputError


def read_toml(path: Path, error: type[InputError], what: str = "") -> dict[str, Any]:
    """Read a TOML file in UTF-8, with or without a byte-order mark.

    Args:
        path: The file.
        error: What is raised where it cannot be read.
        what: Stands before the path in messages.

    Returns:
        Its tables.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: It cannot be read, or is no TOML; of the class that was asked for.
    """
    named = f"{what} {path}" if what else str(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise
    except OSError as failure:
        raise error(f"{named} cannot be read: {failure.strerror}") from None
    except RecursionError:
        raise error(f"{named} is not valid TOML: it is nested too deeply") from None
    except ValueError as failure:  # TOML that is none, or no UTF-8
        raise error(f"{named} is not valid TOML: {failure}") from None
