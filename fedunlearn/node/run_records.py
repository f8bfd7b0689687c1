"""What a node remembers of removals while one run of its app lasts, where it has no folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from typing_extensions import override

from fedunlearn.commitments import Commitments
from fedunlearn.node.tombstones import Tombstones

Read = Callable[[], bytes | None]
Write = Callable[[bytes], None]


class RunTombstones(Tombstones):
    """A list of removed examples, as text that is stored elsewhere."""

    def __init__(self, read: Read, write: Write) -> None:
        """Take what stores the list.

        Args:
            read: Returns the text that was stored last; None where there is none.
            write: Stores a text.
        """
        super().__init__(Path("the state of this run"))
        self.read, self.write = read, write
        self._text: bytes | None = None

    @override
    def refresh(self) -> bool:
        text = self.read()
        if text == self._text:
            return False
        self._left, self._places = (set(), {}) if text is None else self._parsed(text)
        self._text = text
        return True

    @override
    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.refresh()
        yield

    @override
    def _store(self, text: str) -> None:
        self.write(text.encode())


class RunRecords:
    """Tombstones without commitments, since records cannot be named from outside of the run.

    Attributes:
        tombstones: The list.
    """

    def __init__(self, read: Read, write: Write) -> None:
        """Take what stores the list; see RunTombstones."""
        self.tombstones = RunTombstones(read, write)

    def commitments(self, records: Iterable[bytes]) -> Commitments | None:
        """Return None: there is no folder that would keep the secret of commitments."""
        del records
        return None
