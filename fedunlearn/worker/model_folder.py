"""Model files by content: a file's name is its sha256.

A file is there whole or not at all, and on the disk before anything names it. Beside a model may
lie a folder of what its next removal starts from.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedunlearn.errors import StoreError, VerificationError
from fedunlearn.files import alone_in, flush_folder, replacing
from fedunlearn.requests.model_lineage import model_path


class ModelFolder:
    """A folder of models."""

    def __init__(self, folder: Path) -> None:
        """Use a folder, which is made where it is missing.

        Raises:
            StoreError: It cannot be made, or not be written to.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StoreError(f"{folder} cannot be made: {error.strerror}") from None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StoreError(f"{folder} cannot be written to, where models are to be kept")
        self.folder = folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process from writing and deleting models until the block ends.

        Between a file and the transaction that names it, nobody takes it for one that is left over.

        Yields:
            Nothing.
        """
        with alone_in(self.folder):
            yield

    def put(self, content: bytes) -> str:
        """Write a model; one that is there already is left alone.

        Args:
            content: Of the safetensors file.

        Returns:
            Its sha256, hexadecimal.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        path = self.path(sha256)
        if not (path.exists() and path.read_bytes() == content):
            with replacing(path) as file:
                file.write(content)
        return sha256

    def read(self, sha256: str) -> bytes:
        """Return a model's file.

        Raises:
            VerificationError: It is missing, or is not the one of that name.
        """
        path = self.path(sha256)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise VerificationError(
                f"{path} is missing; restore it from a backup, or roll the model back"
            ) from None
        if hashlib.sha256(content).hexdigest() != sha256:
            raise VerificationError(f"{path} was changed: its sha256 is not its name; restore it")
        return content

    def digests(self) -> frozenset[str]:
        """Return the digests of all models of which something is there."""
        return frozenset(path.name.partition(".")[0] for path in self.folder.iterdir())

    def discard(self, sha256: str) -> None:
        """Delete all that is there of a model; nothing where it is gone."""
        path = self.path(sha256)
        for file in (path, path.with_name(f"{path.name}.part")):
            file.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            shutil.rmtree(self.beside(sha256))
        flush_folder(self.folder)

    def path(self, sha256: str) -> Path:
        """Return where a model's file is."""
        return model_path(self.folder, sha256)

    def beside(self, sha256: str) -> Path:
        """Return the folder of what its next removal starts from; perhaps it is not there."""
        return self.folder / f"{sha256}.state"
