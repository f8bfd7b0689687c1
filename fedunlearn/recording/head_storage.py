"""A recording of a linear head in one file, which a removal replaces atomically.

``head.safetensors`` holds the sums as float64 tensors, and the rest as one JSON document in the
metadata, beside the sha256 of both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from google.protobuf.message import DecodeError
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors import numpy as arrays_file

from fedunlearn.errors import RecordingError
from fedunlearn.files import replacing
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.questions.head_moments import Moments
from fedunlearn.questions.subspace_summary import FloatArray
from fedunlearn.questions.wire import decode_forget_set, encode_forget_set
from fedunlearn.recording.file_basis import unreadable, unusable
from fedunlearn.recording.head_recording import CertifiedRecording, HeadRecording
from fedunlearn.recording.recording import Group
from fedunlearn.rpc.v1 import session_pb2 as pb

HEAD = "head.safetensors"

HeadRecordings = HeadRecording | CertifiedRecording


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Numbers(_Part):
    """The numbers of a group's moments; the total has no node."""

    node: int | None = None
    label: int | None = None
    examples: int
    targets: float
    square_error: float
    cross_error: float


class _Document(_Part):
    version: Literal[1] = 1
    kind: Literal["exact", "certified"]
    model: str
    gone: tuple[str, ...]
    by_label: bool = False
    moments: tuple[_Numbers, ...] = ()
    spent: float = 0.0
    draws: int = 0


def save_head(recording: HeadRecordings, folder: Path) -> None:
    """Write a recording, in place of the one that the folder may hold.

    Args:
        recording: The recording.
        folder: The folder, which exists.
    """
    gone = tuple(encode_forget_set(rule).SerializeToString().hex() for rule in recording.gone)
    model = recording.model.hex()
    if isinstance(recording, CertifiedRecording):
        document = _Document(
            kind="certified",
            model=model,
            gone=gone,
            spent=recording.spent,
            draws=recording.draws,
        )
        tensors = {
            "weights": recording.weights,
            "perturbation": recording.perturbation,
            "square": recording.square,
        }
    else:
        parts = [recording.stays, *recording.groups.values()]
        names: list[tuple[int | None, int | None]] = [(None, None), *recording.groups]
        document = _Document(
            kind="exact",
            model=model,
            gone=gone,
            by_label=recording.by_label,
            moments=tuple(
                _Numbers(
                    node=node,
                    label=label,
                    examples=one.examples,
                    targets=one.targets,
                    square_error=one.square_error,
                    cross_error=one.cross_error,
                )
                for (node, label), one in zip(names, parts, strict=True)
            ),
        )
        tensors = {
            "squares": np.stack([one.square for one in parts]),
            "crosses": np.stack([one.cross for one in parts]),
        }
    tensors = {name: np.ascontiguousarray(one) for name, one in tensors.items()}
    text = document.model_dump_json()
    metadata = {"document": text, "sha256": _sha256(text, tensors)}
    with replacing(folder / HEAD) as file:
        file.write(arrays_file.save(tensors, metadata))


def open_head(folder: Path) -> HeadRecordings:
    """Read a recording.

    Args:
        folder: The folder in which it was saved.

    Returns:
        The recording, which equals the saved one to the last bit.

    Raises:
        RecordingError: The file is missing, cut short, changed or of another kind.
    """
    path = folder / HEAD
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordingError(unreadable(path, error)) from error
    try:
        tensors = arrays_file.load(content)
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
        if _sha256(metadata["document"], tensors) != metadata["sha256"]:
            raise RecordingError(unusable(path, "changed: its sha256 is not the one that it names"))
        document = _Document.model_validate_json(metadata["document"])
        return _read(document, tensors)
    except (
        SafetensorError,
        KeyError,
        TypeError,
        ValueError,
        DecodeError,
    ) as error:
        raise RecordingError(unusable(path, "cut short, or not sums of a linear head")) from error


def _read(document: _Document, tensors: Mapping[str, FloatArray]) -> HeadRecordings:
    model, gone = bytes.fromhex(document.model), _rules(document.gone)
    if document.kind == "certified":
        return CertifiedRecording(
            weights=tensors["weights"],
            perturbation=tensors["perturbation"],
            square=tensors["square"],
            spent=document.spent,
            model=model,
            gone=gone,
            draws=document.draws,
        )
    total, *groups = (
        Moments(
            numbers.examples,
            square,
            cross,
            numbers.targets,
            numbers.square_error,
            numbers.cross_error,
        )
        for numbers, square, cross in zip(
            document.moments, tensors["squares"], tensors["crosses"], strict=True
        )
    )
    named = [
        Group(numbers.node, numbers.label)
        for numbers in document.moments
        if numbers.node is not None
    ]
    return HeadRecording(
        by_label=document.by_label,
        stays=total,
        groups=dict(zip(named, groups, strict=True)),
        model=model,
        gone=gone,
    )


def _rules(rules: Sequence[str]) -> tuple[ForgetSet, ...]:
    return tuple(decode_forget_set(pb.ForgetSet.FromString(bytes.fromhex(one))) for one in rules)


def _sha256(document: str, tensors: Mapping[str, FloatArray]) -> str:
    digest = hashlib.sha256(document.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}:{tensor.shape}:{tensor.dtype.str}".encode() + tensor.tobytes())
    return digest.hexdigest()
