"""The end of a process that used gRPC, whose own threads are daemons."""

from __future__ import annotations

import threading


def await_threads(limit_s: float = 30.0) -> None:
    """Wait for all other threads, since Python may abort where it ends while they still run."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(limit_s)
