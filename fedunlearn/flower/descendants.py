"""Termination of the processes that an interrupted engine leaves behind.

Ray starts its processes in several steps, and an interrupt between two of them leaves some whose
parent has ended. While the block runs, this process adopts such orphans (Linux, prctl(2)), so that
they are found among its descendants.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

PR_SET_CHILD_SUBREAPER = 36
GRACE_S = 2.0


@contextmanager
def ended_on_failure() -> Iterator[None]:
    """End every process that was started inside the block, if the block fails."""
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
    """End every process that was started inside the block, however the block ends."""
    before = _descendants()
    _adopt_orphans(True)
    try:
        yield
    finally:
        _end_all_but(before)
        _reap()
        _adopt_orphans(False)


def _reap() -> None:
    """Collect the exit statuses of adopted children, so that no zombies stay."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _adopt_orphans(wanted: bool) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0)


def _end_all_but(before: set[psutil.Process]) -> None:
    """Terminate, then kill. Each pass also finds processes that were started in the meantime."""
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for _ in range(int(GRACE_S / 0.1)):
            left = _descendants() - before
            if not left:
                return
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    end(process)
            time.sleep(0.1)  # psutil.wait_procs would take exit statuses from Popen objects


def _descendants() -> set[psutil.Process]:
    """Return the living descendants of this process."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.add(process)
    return found
