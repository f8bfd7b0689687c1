"""Atomic writes of files, whenever the process is killed, and locks on folders."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces another once it is on the disk.

    The temporary file always has the same name, so that the next write also replaces one that a
    crash left behind, with its content.

    Yields:
        The file to be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        flush_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text as the whole content of a file, atomically."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


@contextmanager
def private_files() -> Iterator[None]:
    """Restrict files and folders that this process creates in the block to their owner.

    The mode belongs to the process, so that files of all of its threads are restricted until the
    block ends.

    Yields:
        Nothing.
    """
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes and threads that use this function, for a block.

    Yields:
        Nothing. The lock ends with the process, however the process ends.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, as ``fsync`` does for the content of a file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
