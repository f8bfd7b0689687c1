"""A basis in a file, of which only the rows in use are mapped, so that it may exceed memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from typing_extensions import override

from fedunlearn.errors import RecordingError
from fedunlearn.recording.basis import Basis

_TENSOR = "basis"
_NAMES = {torch.float32: "F32", torch.float64: "F64", torch.bfloat16: "BF16"}
_PRECISIONS = {name: precision for precision, name in _NAMES.items()}


class FileBasis(Basis):
    """A basis in a file of its own, which never changes.

    The map is closed with the rows that were taken from it. A map that stayed open would let the
    resident memory grow to the size of the file.

    Attributes:
        path: Path of the file.
        sha256: The sha256 of the file, hexadecimal, as the caller states it; it is not checked
            here.
    """

    def __init__(self, path: Path, sha256: str) -> None:
        """Read the size of the basis, without its rows.

        Raises:
            RecordingError: The file is missing, or is not a recording's basis.
        """
        self.path = path
        self.sha256 = sha256
        try:
            with safe_open(path, "pt") as file:
                names = file.keys()
                part = file.get_slice(_TENSOR)
                shape, name = part.get_shape(), part.get_dtype()
        except OSError as error:
            raise RecordingError(unreadable(path, error)) from error
        except SafetensorError as error:
            raise RecordingError(unusable(path, "cut short, or not a recording's basis")) from error
        if names != [_TENSOR] or len(shape) != 2 or name not in _PRECISIONS:
            raise RecordingError(unusable(path, "not a recording's basis"))
        self.size, self.dimension = shape
        self.precision = _PRECISIONS[name]

    @override
    def rows(self, start: int, stop: int) -> Tensor:
        try:
            with safe_open(self.path, "pt") as file:
                rows: Tensor = file.get_slice(_TENSOR)[start:stop]
        except OSError as error:
            raise RecordingError(unreadable(self.path, error)) from error
        except SafetensorError as error:
            raise RecordingError(unusable(self.path, "changed since it was opened")) from error
        return rows


def basis_file(basis: Basis) -> Iterator[bytes | memoryview]:
    """Yield the content of a basis's file, a row at a time, in the format of safetensors.

    The format is written here, because the library writes only tensors that are in memory.
    """
    length = basis.size * basis.dimension * basis.precision.itemsize
    tensor = {
        "dtype": _NAMES[basis.precision],
        "shape": [basis.size, basis.dimension],
        "data_offsets": [0, length],
    }
    header = json.dumps({_TENSOR: tensor}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the numbers begin at a multiple of their size
    yield len(header).to_bytes(8, "little") + header
    for row in range(basis.size):
        yield basis.rows(row, row + 1).contiguous().view(torch.uint8).numpy().reshape(-1).data


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, hexadecimal.

    Raises:
        RecordingError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RecordingError(unreadable(path, error)) from error


def unusable(path: Path, what: str) -> str:
    """Return the message for a file of a recording that cannot be used."""
    return f"{path}: {what}; restore the recording's folder from a copy, or record anew"


def unreadable(path: Path, error: OSError) -> str:
    """Return the message for a file of a recording that is missing or cannot be read."""
    missing = isinstance(error, FileNotFoundError)
    reason = "no such file" if missing else (error.strerror or "cannot be read").lower()
    return f"{path}: {reason}; give the folder in which a recording was saved"
