"""Files that are there whole or not at all, whenever the process is killed; locks on folders."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open what takes a file's place once it is on the disk.

    Always of the same name: what a crash left there goes with the next writing, and with it what
    is in it.

    Yields:
        The file to write to.
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
    """Write a text in the place of a file."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


@contextmanager
def private_files() -> Iterator[None]:
    """Give no one but the owner access to files and folders that this process makes in the block.

    The mode belongs to the process, so all of its threads make such files until the block ends.

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
    """Wait until no other process or thread is in this block for a folder, and keep them out.

    Yields:
        Nothing; the lock goes with the process, however that ends.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def flush_folder(folder: Path) -> None:
    """Have the folder's names on the disk, as ``fsync`` has a file's content."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
