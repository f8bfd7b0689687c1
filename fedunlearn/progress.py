"""Progress reports of long work, which are silent by default."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """A display of nested pieces of work, each with a number of steps."""

    def advance(self) -> None:
        """Count one step of the innermost piece as done."""
        ...

    @contextmanager
    def piece(self, label: str, steps: int) -> Iterator[None]:
        """Begin a piece of work that ends with the block."""
        ...


class Silent:
    """A display that shows nothing."""

    def advance(self) -> None:
        """See Progress."""
        pass

    @contextmanager
    def piece(self, label: str, steps: int) -> Iterator[None]:
        """See Progress."""
        del label, steps
        yield
