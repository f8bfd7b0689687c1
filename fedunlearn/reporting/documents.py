"""Stored JSON documents with a versioned schema: strict on reading, one line where one is unusable.

A number that is not known is absent from a document: neither null, nor zero, nor a text. A value
that is NaN or infinite counts as not known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_serializer,
)
from pydantic_core import from_json

from fedunlearn.errors import InputError

_LONGEST_VALUE = 40


def _without_holes(value: object) -> object:
    """Return a JSON-like value without the numbers in it that are not finite."""
    if isinstance(value, dict):
        return {key: _without_holes(inner) for key, inner in value.items() if not _is_hole(inner)}
    if isinstance(value, list | tuple):
        return [_without_holes(inner) for inner in value if not _is_hole(inner)]
    return value


def _is_hole(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _known(value: object) -> object:
    return None if _is_hole(value) else value


Measured = Annotated[float | None, BeforeValidator(_known)]
Count = Annotated[int, Field(ge=0)]
JsonObject = Annotated[dict[str, JsonValue], BeforeValidator(_without_holes)]


class Document(BaseModel):
    """Base of everything that is stored: frozen, strict, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )


class Sparse(Document):
    """Base of what leaves out the fields that are not known."""

    @model_serializer(mode="wrap")
    def _known_fields(self, handler: Callable[[Sparse], dict[str, object]]) -> dict[str, object]:
        return {key: value for key, value in handler(self).items() if value is not None}

    def numbers(self) -> dict[str, float]:
        """Return the known numbers among the fields, by their keys."""
        return {
            key: float(value)
            for key, value in self
            if isinstance(value, int | float) and not isinstance(value, bool)
        }


class Versioned(Sparse):
    """Base of a whole file, which says by which version of its schema it was written.

    Attributes:
        version: The version that this package writes and reads.
        what: The name of such a file in messages.
    """

    version: ClassVar[int]
    what: ClassVar[str]

    def to_json(self) -> str:
        """Return the text of the file."""
        return self.model_dump_json(indent=2) + "\n"


D = TypeVar("D", bound=Versioned)


def read_document(path: Path, kind: type[D]) -> D:
    """Read a stored document.

    Args:
        path: The file.
        kind: The model of its schema.

    Returns:
        The document.

    Raises:
        InputError: The file is missing or damaged, or was written by another schema.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{kind.what} {path} not found") from None
    except OSError as error:
        raise InputError(f"{kind.what} {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{kind.what} {path} is damaged: it is not UTF-8") from None
    try:
        found = from_json(text)
    except ValueError as error:
        raise InputError(f"{kind.what} {path} is damaged: {error}") from None
    if not isinstance(found, dict) or "schema" not in found:
        raise InputError(
            f"{kind.what} {path} has no key 'schema', as files from before version 0.2 and other "
            "kinds of files; run the scenario again"
        )
    if found["schema"] != kind.version:
        raise InputError(
            f"{kind.what} {path} is of schema {found['schema']!r:.{_LONGEST_VALUE}}; this version "
            f"of fedunlearn reads schema {kind.version}"
        )
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{kind.what} {path} is damaged: {place}: {first['msg']}") from None
