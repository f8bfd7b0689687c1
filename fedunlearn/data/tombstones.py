"""A node's own list of what was removed: it takes part in nothing any more.

The list is one JSON file on the node, replaced whole, so that a crash leaves the old or the new. It
holds places in the node's data, never the data; it only ever grows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from fedunlearn.errors import NodeLeftError, TaskError
from fedunlearn.files import write_whole

VERSION = 1


class Tombstones:
    """The removed examples of one node, by the deletion that removed them.

    Several processes may read the list while one adds to it: every look at it sees the last that
    was added.
    """

    def __init__(self, path: Path) -> None:
        """Use a file, which is made when something is buried."""
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._left: set[str] = set()
        self._places: dict[str, tuple[int, ...]] = {}

    def refresh(self) -> bool:
        """Read the file where it has changed.

        Returns:
            Whether it had.

        Raises:
            TaskError: It is no list of tombstones.
        """
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return False
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen == self._seen:
            return False
        try:
            document = json.loads(self._path.read_text(encoding="utf-8"))
            assert document["version"] == VERSION
            self._left = set(document["left"])
            self._places = {name: tuple(map(int, p)) for name, p in document["removed"].items()}
        except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
            raise TaskError(
                f"{self._path.name}: is no list of tombstones of version {VERSION}; restore it: "
                "without it removed examples would be used again"
            ) from error
        self._seen = seen
        return True

    @property
    def has_left(self) -> bool:
        """Whether the node has left as a whole."""
        return bool(self._left)

    def require_present(self) -> None:
        """Refuse to take part for a node that has left.

        Raises:
            NodeLeftError: It has.
        """
        if self._left:
            raise NodeLeftError("has left the federation; its data take part in nothing any more")

    def stays(self, count: int) -> Tensor:
        """Return which of a node's examples (n,) are not removed, as booleans."""
        kept = torch.full((count,), not self._left)
        for places in self._places.values():
            kept[list(places)] = False
        return kept

    def bury(self, deletion: str, places: Iterable[int]) -> None:
        """Add what a deletion removed; the same again changes nothing.

        Args:
            deletion: Its id.
            places: In the node's data.
        """
        self.refresh()
        new = tuple(sorted(set(places)))
        if self._places.get(deletion) != new:
            self._places[deletion] = new
            self._write()

    def leave(self, deletion: str) -> None:
        """Note that the node has left as a whole; the same again changes nothing."""
        self.refresh()
        if deletion not in self._left:
            self._left.add(deletion)
            self._write()

    def _write(self) -> None:
        document = {
            "version": VERSION,
            "left": sorted(self._left),
            "removed": dict(sorted(self._places.items())),
        }
        write_whole(self._path, json.dumps(document) + "\n")
        self._seen = None
        self.refresh()
