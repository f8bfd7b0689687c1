"""What a node keeps of its own data, beside them: commitments to its records, and tombstones.

``secret.key`` salts the commitments, so that no record can be guessed from its commitment;
``commitments.bin`` holds them, for the owner to name records by; ``tombstones.json`` says what was
removed. All three stay on the node: the server learns the root and the number of records.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import Tensor

from fedunlearn.commitments import Commitments
from fedunlearn.errors import TaskError
from fedunlearn.files import alone_in, replacing
from fedunlearn.node.tombstones import Tombstones
from fedunlearn.trees import paired_records

SECRET, COMMITMENTS, TOMBSTONES = "secret.key", "commitments.bin", "tombstones.json"
SECRET_BYTES = 32


class NodeRecords:
    """A folder on a node."""

    def __init__(self, folder: Path) -> None:
        """Use a folder, which is made where it is missing.

        Raises:
            TaskError: The folder cannot be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise TaskError(
                f"the folder for records {folder} cannot be made: {error.strerror}; name one that "
                "can be written to"
            ) from None
        self.folder = folder
        self.tombstones = Tombstones(folder / TOMBSTONES)
        self._checked: Commitments | None = None

    def commitments(self, records: Iterable[bytes]) -> Commitments:
        """Commit to the node's records, at its first enrolment; later check that they are the same.

        Args:
            records: The bytes of each, in the order of the data, removed ones included.

        Returns:
            The commitments.

        Raises:
            TaskError: The records are not those that the node has committed to, or the folder
                cannot be used.
            VerificationError: The file of commitments is damaged.
        """
        if self._checked is None:
            try:
                self._checked = self._check(records)
            except OSError as error:
                raise TaskError(
                    f"the folder for records {self.folder} cannot be used: {error.strerror}"
                ) from None
        return self._checked

    def _check(self, records: Iterable[bytes]) -> Commitments:
        path = self.folder / COMMITMENTS
        with alone_in(self.folder):
            committed = path.exists()
            found = Commitments.of(self._secret(anew=not committed), records)
            if not committed:
                found.save(path)
            elif Commitments.load(path).root != found.root:
                raise TaskError(
                    "the data are not those that this node committed to when it enrolled; restore "
                    "them, use the scenario that it enrolled with, or enrol anew with an empty "
                    "folder for records"
                )
        return found

    def _secret(self, *, anew: bool) -> bytes:
        path = self.folder / SECRET
        if not path.exists():
            if not anew:
                raise TaskError(f"{SECRET} is missing, which salts {COMMITMENTS}; restore it")
            with replacing(path) as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(secrets.token_bytes(SECRET_BYTES))
        secret = path.read_bytes()
        if len(secret) != SECRET_BYTES:
            raise TaskError(f"{SECRET}: holds {len(secret)} bytes, not {SECRET_BYTES}; restore it")
        return secret


def record_bytes(inputs: Tensor, targets: Tensor) -> Iterator[bytes]:
    """Return the bytes of each example (inputs (n, ...), targets (n, ...)) that are committed to.

    Returns:
        Dtype and shape of input and target, then their little-endian bytes.
    """
    return paired_records(inputs, targets)
