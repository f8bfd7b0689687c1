"""A node's own list of what was removed: it takes part in nothing any more.

The list is one JSON file on the node, replaced whole, so that a crash leaves the old or the new. It
holds places in the node's data, never the data; it only ever grows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError
from torch import Tensor

from fedunlearn.errors import NodeLeftError, TaskError
from fedunlearn.files import alone_in, write_whole

VERSION: Literal[1] = 1


class _List(BaseModel):
    """The file's content."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[1]
    left: list[str]
    removed: dict[str, tuple[NonNegativeInt, ...]]


class Tombstones:
    """The removed examples of one node, by the deletion that removed them.

    Several processes may read the list while one adds to it: every look at it sees the last that
    was added.
    """

    def __init__(self, path: Path) -> None:
        """Use a file, which is made when something is recorded."""
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._left: set[str] = set()
        self._places: dict[str, tuple[int, ...]] = {}

    def refresh(self) -> bool:
        """Read the file where it has changed.

        Returns:
            Whether it had.

        Raises:
            TaskError: The file is not a list of tombstones.
        """
        try:
            status = os.stat(self._path)
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen == self._seen:
                return False
            text = self._path.read_bytes()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise TaskError(f"{self._path} cannot be read: {error.strerror}") from None
        self._left, self._places = self._parsed(text)
        self._seen = seen
        return True

    def _parsed(self, text: bytes) -> tuple[set[str], dict[str, tuple[int, ...]]]:
        try:
            listed = _List.model_validate_json(text)
        except ValidationError:
            raise TaskError(
                f"{self._path.name}: is no list of tombstones of version {VERSION}; restore it: "
                "without it removed examples would be used again"
            ) from None
        return set(listed.left), dict(listed.removed)

    @property
    def has_left(self) -> bool:
        """Whether the node has left as a whole."""
        return bool(self._left)

    @property
    def any_removed(self) -> bool:
        """Whether some example was removed, as far as was read."""
        return bool(self._left) or any(self._places.values())

    def require_present(self) -> None:
        """Refuse to take part for a node that has left.

        Raises:
            NodeLeftError: The node has left.
        """
        if self._left:
            raise NodeLeftError("has left the federation; its data take part in nothing any more")

    def stays(self, count: int) -> Tensor:
        """Return which of a node's examples (n,) are not removed, as booleans.

        Raises:
            TaskError: The list names an example that is not there: the data are others.
        """
        kept = torch.full((count,), not self._left)
        for places in self._places.values():
            if max(places, default=-1) >= count:
                raise TaskError(
                    f"the data hold {count} examples and {self._path.name} names number "
                    f"{max(places)}; restore the data that this node enrolled with"
                )
            kept[list(places)] = False
        return kept

    def record(self, deletion: str, places: Iterable[int]) -> None:
        """Add what a deletion removed; the same again changes nothing.

        Args:
            deletion: Its id.
            places: Places in the node's data.
        """
        new = tuple(sorted(set(places)))
        with self._locked():
            if self._places.get(deletion) != new:
                self._places[deletion] = new
                self._write()

    def leave(self, deletion: str) -> None:
        """Note that the node has left as a whole; the same again changes nothing."""
        with self._locked():
            if deletion not in self._left:
                self._left.add(deletion)
                self._write()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let no other process add to the list meanwhile, and begin with the last that was added.

        Yields:
            Nothing.

        Raises:
            TaskError: The folder cannot be written to.
        """
        try:
            with alone_in(self._path.parent):
                self.refresh()
                yield
        except OSError as error:
            raise TaskError(f"{self._path} cannot be written: {error.strerror}") from None

    def _write(self) -> None:
        document = {
            "version": VERSION,
            "left": sorted(self._left),
            "removed": dict(sorted(self._places.items())),
        }
        self._store(json.dumps(document) + "\n")
        self._seen = None
        self.refresh()

    def _store(self, text: str) -> None:
        write_whole(self._path, text)
