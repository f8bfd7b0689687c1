"""A recording in a folder: a large file that never changes, and a small one.

``basis.safetensors`` holds only Q'. ``sums.safetensors`` holds the rest: vectors as float64
tensors, numbers as one JSON document in the metadata. A removal replaces the small file atomically,
so that a removed summary no longer exists afterwards, and an interrupted removal leaves either the
old file or the new one.

The file of sums contains its own sha256, computed with zeros in its place, and that of the basis.
One process at a time may write to a folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from google.protobuf.message import DecodeError
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors import numpy as arrays_file

from fedunlearn.errors import RecordingError
from fedunlearn.files import flush_folder, replacing
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.questions.subspace_summary import FloatArray, Summary, from_upper
from fedunlearn.questions.wire import decode_forget_set, encode_forget_set
from fedunlearn.recording.basis import Basis
from fedunlearn.recording.file_basis import (
    FileBasis,
    basis_file,
    file_sha256,
    unreadable,
    unusable,
)
from fedunlearn.recording.recording import Group, Recording
from fedunlearn.rpc.v1 import session_pb2 as pb

BASIS = "basis.safetensors"
SUMS = "sums.safetensors"
VERSION: Literal[2] = 2

_NO_DIGEST = "0" * 64


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, ser_json_inf_nan="constants"
    )


class _Numbers(_Part):
    """The numbers of a summary."""

    examples: int
    mass: float
    square: float
    outside: float


class _GroupNumbers(_Part):
    """The numbers of a group's summary, with the group."""

    node: int
    label: int | None
    summary: _Numbers


class _BasisNamed(_Part):
    """The description of the basis to which the sums belong."""

    sha256: str
    size: int
    dimension: int
    precision: Literal["float32", "float64", "bfloat16"]


class _Document(_Part):
    """All values of the file of sums that are not vectors; bytes are hexadecimal."""

    version: Literal[2]
    share: float
    weight_decay: float
    horizon: float
    absolute: bool
    by_label: bool
    examples: int
    mass: float
    batch_size: int | None
    stays: _Numbers
    groups: tuple[_GroupNumbers, ...]
    model: str
    gone: tuple[str, ...]
    basis: _BasisNamed


class _Versioned(BaseModel):
    """The field that documents of all versions have."""

    version: int


def save_recording(recording: Recording, folder: Path) -> None:
    """Write a recording, in place of the one that the folder may hold.

    The basis is written only where it is not there already. An interruption leaves the old
    recording or the new one; where the basis differs, it may leave one without sums, which cannot
    be opened.

    Args:
        recording: The recording.
        folder: The folder, which is created where it is missing.

    Raises:
        OSError: The files cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sha256 = _put_basis(recording.basis, folder)
    content = _content(recording, sha256)
    with replacing(folder / SUMS) as file:
        file.write(content)


def open_recording(folder: Path, *, verify: bool = True) -> Recording:
    """Read a recording, whose basis stays in the file.

    Args:
        folder: The folder in which it was saved.
        verify: Whether to check the sha256 of the basis, which reads all of it: a second or more
            per 1.8 GB. Otherwise only its size, shape and precision are checked.

    Returns:
        The recording, which equals the saved one to the last bit.

    Raises:
        RecordingError: A file is missing, cut short, changed, of another version or of another
            kind.
    """
    path = folder / SUMS
    document, vectors = _read(path)
    basis = FileBasis(folder / BASIS, document.basis.sha256)
    if _named(basis, basis.sha256) != document.basis:
        raise RecordingError(unusable(basis.path, f"not the basis that {path.name} belongs to"))
    if verify and file_sha256(basis.path) != basis.sha256:
        raise RecordingError(
            unusable(basis.path, "changed: its sha256 is not the one that the sums name")
        )
    try:
        gone = tuple(_forget_set(rule) for rule in document.gone)
        model = bytes.fromhex(document.model)
    except (DecodeError, ValueError) as error:
        raise RecordingError(unusable(path, "not a recording's sums")) from error
    return Recording(
        basis=basis,
        share=document.share,
        point=vectors["point"],
        weight_decay=document.weight_decay,
        horizon=document.horizon,
        absolute=document.absolute,
        by_label=document.by_label,
        examples=document.examples,
        mass=document.mass,
        batch_size=document.batch_size,
        stays=_unpacked(document.stays, vectors["stays"], basis.size),
        groups={
            Group(numbers.node, numbers.label): _unpacked(numbers.summary, row, basis.size)
            for numbers, row in zip(document.groups, vectors["groups"], strict=True)
        },
        left=vectors["left"],
        coordinates=vectors["coordinates"],
        model=model,
        gone=gone,
    )


def _put_basis(basis: Basis, folder: Path) -> str:
    """Write the basis where the folder has another or none, and return the file's sha256."""
    path = folder / BASIS
    if isinstance(basis, FileBasis) and basis.path.resolve() == path.resolve():
        return basis.sha256
    digest = hashlib.sha256()
    for part in basis_file(basis):
        digest.update(part)
    sha256 = digest.hexdigest()
    if not path.exists() or file_sha256(path) != sha256:
        with replacing(path) as file:
            for part in basis_file(basis):
                file.write(part)
            # The sums of another basis must never lie beside this one.
            (folder / SUMS).unlink(missing_ok=True)
            flush_folder(folder)
    return sha256


def _content(recording: Recording, sha256: str) -> bytes:
    """Return the content of the file of sums."""
    size, groups = recording.basis.size, recording.groups
    document = _Document(
        version=VERSION,
        share=recording.share,
        weight_decay=recording.weight_decay,
        horizon=recording.horizon,
        absolute=recording.absolute,
        by_label=recording.by_label,
        examples=recording.examples,
        mass=recording.mass,
        batch_size=recording.batch_size,
        stays=_numbers(recording.stays),
        groups=tuple(
            _GroupNumbers(node=group.node, label=group.label, summary=_numbers(summary))
            for group, summary in groups.items()
        ),
        model=recording.model.hex(),
        gone=tuple(encode_forget_set(rule).SerializeToString().hex() for rule in recording.gone),
        basis=_named(recording.basis, sha256),
    )
    packed = np.zeros((len(groups), _packed_size(size)))
    for row, summary in zip(packed, groups.values(), strict=True):
        row[:] = _packed(summary)
    vectors = {
        "point": np.ascontiguousarray(recording.point),
        "left": np.ascontiguousarray(recording.left),
        "coordinates": np.ascontiguousarray(recording.coordinates),
        "stays": _packed(recording.stays),
        "groups": packed,
    }
    metadata = {"document": document.model_dump_json(), "sha256": _NO_DIGEST}
    content = arrays_file.save(vectors, metadata)
    return _with_digest(content, _NO_DIGEST, hashlib.sha256(content).hexdigest())


def _read(path: Path) -> tuple[_Document, Mapping[str, FloatArray]]:
    """Return the content of the file of sums, with every byte checked.

    Raises:
        RecordingError: The file is missing, cut short, changed, of another version or another kind.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordingError(unreadable(path, error)) from error
    try:
        read = arrays_file.load(content)
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
        text, claimed = metadata["document"], metadata["sha256"]
        version = _Versioned.model_validate_json(text).version
        blank = _with_digest(content, claimed, _NO_DIGEST)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RecordingError(unusable(path, "cut short, or not a recording's sums")) from error
    if version != VERSION:
        raise RecordingError(
            f"{path}: version {version} of the format, this is {VERSION}; "
            "use the release that wrote it, or record anew"
        )
    if hashlib.sha256(blank).hexdigest() != claimed:
        raise RecordingError(unusable(path, "changed: its sha256 is not the one that it names"))
    try:
        document = _Document.model_validate_json(text)
    except ValueError as error:
        raise RecordingError(unusable(path, "not a recording's sums")) from error
    size = document.basis.size
    shapes = {
        "point": (size,),
        "left": (size,),
        "coordinates": (size,),
        "stays": (_packed_size(size),),
        "groups": (len(document.groups), _packed_size(size)),
    }
    if {name: array.shape for name, array in read.items()} != shapes or any(
        array.dtype != np.float64 for array in read.values()
    ):
        raise RecordingError(unusable(path, "its tensors are not those of a recording"))
    return document, {name: array.copy() for name, array in read.items()}  # they were read-only


def _with_digest(content: bytes, old: str, new: str) -> bytes:
    """Replace a digest; quotes inside of the document are escaped."""
    return content.replace(f'"sha256":"{old}"'.encode(), f'"sha256":"{new}"'.encode(), 1)


def _named(basis: Basis, sha256: str) -> _BasisNamed:
    precision = str(basis.precision).removeprefix("torch.")
    return _BasisNamed.model_validate(
        {
            "sha256": sha256,
            "size": basis.size,
            "dimension": basis.dimension,
            "precision": precision,
        }
    )


def _forget_set(rule: str) -> ForgetSet:
    return decode_forget_set(pb.ForgetSet.FromString(bytes.fromhex(rule)))


def _packed_size(size: int) -> int:
    return size + size * (size + 1) // 2


def _packed(summary: Summary) -> FloatArray:
    """Return a summary's gradient and the upper half of its curvature in one row, float64."""
    upper = summary.curvature[np.triu_indices(len(summary.gradient))]
    return np.concatenate([summary.gradient, upper])


def _numbers(summary: Summary) -> _Numbers:
    return _Numbers(
        examples=summary.examples, mass=summary.mass, square=summary.square, outside=summary.outside
    )


def _unpacked(numbers: _Numbers, row: FloatArray, size: int) -> Summary:
    curvature = from_upper(row[size:], size)
    return Summary(
        numbers.examples,
        numbers.mass,
        numbers.square,
        numbers.outside,
        row[:size].copy(),
        curvature,
    )
