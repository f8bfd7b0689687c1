"""Ends what an interrupted engine leaves behind.

Ray starts its processes in several steps, and an interrupt between two of them leaves some whose
parent is gone. While the block runs this process adopts such orphans (Linux, prctl(2)), so that
they are found among its descendants.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
GRACE_S = 2.0


@contextmanager
def ended_on_failure() -> Iterator[None]:
    """End every process that was started inside the block, where the block fails."""
    before = _descendants()
    _adopt_orphans(True)
    try:
        yield
    except BaseException:
        _end_all_but(before)
        raise
    finally:
        _adopt_orphans(False)


@contextmanager
def ended_afterwards() -> Iterator[None]:
    """End every process that was started inside the block, however it ends."""
    before = _descendants()
    _adopt_orphans(True)
    try:
        yield
    finally:
        _end_all_but(before)
        _reap()
        _adopt_orphans(False)


def _reap() -> None:
    """Take note of the adopted children that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _adopt_orphans(wanted: bool) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0)


def _end_all_but(before: set[int]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + GRACE_S
        while (left := _descendants() - before) and time.monotonic() < deadline:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            time.sleep(0.1)


def _descendants() -> set[int]:
    """Return the living descendants of this process; none where there is no /proc to look at."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # gone meanwhile
            # pid (name, which may hold anything) state parent ...
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(path.parent.name))
    found: set[int] = set()
    waiting = [os.getpid()]
    while waiting:
        new = children.get(waiting.pop(), [])
        found.update(new)
        waiting += new
    return found
