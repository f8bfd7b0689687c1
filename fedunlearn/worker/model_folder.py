"""Model files named by their content: a file's name is its sha256.

Files are written atomically, and are on the disk before the store names them. A model can have a
folder with the data that its next removal starts from.
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
        """Open a folder, which is created if it is missing.

        Raises:
            StoreError: The folder cannot be created or written to.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StoreError(f"{folder} cannot be created: {error.strerror}") from None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StoreError(f"the folder of models {folder} cannot be written to")
        self.folder = folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against writing and deleting by other processes until the block ends.

        Without the lock, a file that no transaction names yet could be deleted as left over.

        Yields:
            None.
        """
        with alone_in(self.folder):
            yield

    def put(self, content: bytes) -> str:
        """Write a model; an existing file with the same content is not changed.

        Args:
            content: Content of the safetensors file.

        Returns:
            sha256 of the file, hexadecimal.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        path = self.path(sha256)
        if not (path.exists() and path.read_bytes() == content):
            with replacing(path) as file:
                file.write(content)
        return sha256

    def read(self, sha256: str) -> bytes:
        """Return the content of a model's file.

        Raises:
            VerificationError: The file is missing, or its sha256 is not its name.
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
        """Return the digests of all models that have files in the folder."""
        return frozenset(path.name.partition(".")[0] for path in self.folder.iterdir())

    def discard(self, sha256: str) -> None:
        """Delete all files of a model; files that do not exist are ignored."""
        path = self.path(sha256)
        for file in (path, path.with_name(f"{path.name}.part")):
            file.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            shutil.rmtree(self.beside(sha256))
        flush_folder(self.folder)

    def path(self, sha256: str) -> Path:
        """Return the path of a model's file."""
        return model_path(self.folder, sha256)

    def beside(self, sha256: str) -> Path:
        """Return the folder with the data of the model's next removal, which need not exist."""
        return self.folder / f"{sha256}.state"
