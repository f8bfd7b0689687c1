"""What long work reports while it runs. Silent unless someone listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """A listener to nested pieces of work, each with a number of steps."""

    def advance(self) -> None:
        """One step of the innermost piece is done."""
        ...

    @contextmanager
    def piece(self, label: str, steps: int) -> Iterator[None]:
        """A piece of work begins, and ends with the block."""
        ...


class Silent:
    """Listens to nothing."""

    def advance(self) -> None:
        """See Progress."""
        pass

    @contextmanager
    def piece(self, label: str, steps: int) -> Iterator[None]:
        """See Progress."""
        del label, steps
        yield
