"""Progress bars on a terminal; no output in a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from fedunlearn.progress import Progress, Silent


class TerminalProgress:
    """A progress bar for each task; bars of finished tasks remain on the screen."""

    def __init__(self, bars: Bars) -> None:
        """Draw on these bars."""
        self._bars = bars
        self._open: list[int] = []

    def advance(self) -> None:
        """See Progress."""
        if self._open:
            self._bars.advance(self._bars.tasks[self._open[-1]].id)

    @contextmanager
    def piece(self, label: str, steps: int) -> Iterator[None]:
        """See Progress."""
        task = self._bars.add_task(label, total=steps)
        self._open.append(self._bars.task_ids.index(task))
        try:
            yield
        finally:
            self._open.pop()
            # A task may end before its last step.
            done = self._bars.tasks[self._bars.task_ids.index(task)].completed
            self._bars.update(task, total=done)


@contextmanager
def terminal_progress() -> Iterator[Progress]:
    """Show progress on standard error if it is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Silent()
        return
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    with Bars(*columns, console=console) as bars:
        yield TerminalProgress(bars)
