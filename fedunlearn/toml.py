"""TOML files, as editors and people write them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from fedunlearn.errors import InputError


def read_toml(path: Path, error: type[InputError], what: str = "") -> dict[str, Any]:
    """Read a TOML file in UTF-8, with or without a byte-order mark.

    Args:
        path: The file.
        error: Class of the exception that is raised where the file cannot be read.
        what: Words that precede the path in messages.

    Returns:
        The tables of the file.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: The file cannot be read, or is not TOML; of the class ``error``.
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
    except ValueError as failure:  # the file is not TOML, or not UTF-8
        raise error(f"{named} is not valid TOML: {failure}") from None
