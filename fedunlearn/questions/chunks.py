"""Tensors on a gRPC stream: a header that announces them, then their bytes in chunks.

A chunk is the ``chunk`` field of a frame of session.proto. It is written and read here by hand,
since protobuf's Python objects would copy its bytes twice more on each side.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from math import prod

import numpy as np
import torch
from torch import Tensor

from fedunlearn.rpc.v1 import session_pb2 as pb

CHUNK = 128 * 2**10  # bytes
ON_THE_WAY = 2 * 2**20  # bytes of chunks that a server of many nodes sends at a time
MAX_MESSAGE = 2**20  # bytes; headers of forget sets with thousands of nodes fit

ALIGNMENT = 64  # bytes; on other memory the last bits of a matrix product differ

# Before the names of the tensors of a model's state.
STATE = "state:"

# Tag of field 2, length-delimited, in AttendRequest and AttendResponse.
_CHUNK_TAG = b"\x12"

DTYPES = {
    torch.float32: pb.DTYPE_FLOAT32,
    torch.float64: pb.DTYPE_FLOAT64,
    torch.bfloat16: pb.DTYPE_BFLOAT16,
}
_DTYPES_BACK = {number: dtype for dtype, number in DTYPES.items()}

if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("session transport: tensors cross as little-endian bytes; use messages")


def announce(name: str, tensor: Tensor, payload: torch.dtype) -> pb.TensorHeader:
    """Return the header of a tensor whose bytes are to be sent as ``payload``.

    Raises:
        ValueError: Its dtype cannot be sent.
    """
    if tensor.dtype not in DTYPES:
        raise ValueError(f"a tensor of {tensor.dtype} cannot be sent; use float32 or float64")
    return pb.TensorHeader(
        name=name, shape=tensor.shape, dtype=DTYPES[tensor.dtype], payload=DTYPES[payload]
    )


def as_payload(tensor: Tensor, payload: torch.dtype | None) -> Tensor:
    """Return a tensor as it is sent; itself where there is no need to change it.

    Args:
        tensor: Any.
        payload: bfloat16 to round floats that are wider; None to leave them alone.

    Returns:
        A contiguous tensor in main memory.
    """
    return tensor.detach().to("cpu", payload or tensor.dtype).contiguous()


def cut(tensor: Tensor, streams: int = 1) -> Iterator[bytes]:
    """Cut a contiguous tensor into serialised chunk frames.

    Args:
        tensor: What is sent.
        streams: Number of streams that send at once; chunks are smaller where there are many.

    Yields:
        Frames, each made when it is asked for and with one copy of its bytes.
    """
    raw = _bytes_of(tensor)
    size = min(CHUNK, max(ON_THE_WAY // streams, 2**12))
    for start in range(0, len(raw), size):
        piece = raw[start : start + size]
        yield b"".join((_CHUNK_TAG, _varint(len(piece)), piece))


def chunk_of(frame: bytes) -> memoryview | None:
    """Return the bytes that a frame carries, without a copy; None where it is no chunk.

    Raises:
        ValueError: The frame is a chunk that does not parse.
    """
    if frame[:1] != _CHUNK_TAG:
        return None
    length = shift = 0
    for position in range(1, min(len(frame), 6)):
        length |= (frame[position] & 0x7F) << shift
        shift += 7
        if frame[position] < 0x80:
            if len(frame) != position + 1 + length:
                break
            return memoryview(frame)[position + 1 :]
    raise ValueError("chunk does not parse")


def wire_bytes(header: pb.TensorHeader) -> int:
    """Return how many bytes of chunks a tensor takes.

    Raises:
        ValueError: Its dtype or that of its payload is unknown.
    """
    if header.dtype not in _DTYPES_BACK or header.payload not in _DTYPES_BACK:
        raise ValueError("tensor of an unknown dtype")
    return prod(header.shape) * _DTYPES_BACK[header.payload].itemsize


class Assembly:
    """Tensors that were announced, filled by the chunks that follow."""

    def __init__(self, headers: list[pb.TensorHeader]) -> None:
        """Allocate the tensors; the caller has made sure that they are not too large."""
        self._headers = headers
        self._tensors = [
            _room(wire_bytes(header)).view(_DTYPES_BACK[header.payload]).view(tuple(header.shape))
            for header in headers
        ]
        self._rooms = [room for room in map(_bytes_of, self._tensors) if len(room)]
        self._filled = 0

    @property
    def complete(self) -> bool:
        """Whether no chunk is missing."""
        return not self._rooms

    def take(self, chunk: memoryview) -> None:
        """Copy the next bytes to where they belong.

        Raises:
            ValueError: The chunk has no bytes, or more than the tensor has room for.
        """
        if not self._rooms or not 0 < len(chunk) <= len(self._rooms[0]) - self._filled:
            raise ValueError("more bytes than were announced")
        self._rooms[0][self._filled : self._filled + len(chunk)] = chunk
        self._filled += len(chunk)
        if self._filled == len(self._rooms[0]):
            del self._rooms[0]
            self._filled = 0

    def tensors(self) -> Mapping[str, Tensor]:
        """Return the tensors by name, in the dtype that they have at both ends."""
        return {
            header.name: tensor.to(_DTYPES_BACK[header.dtype])
            for header, tensor in zip(self._headers, self._tensors, strict=True)
        }


def _room(nbytes: int) -> Tensor:
    """Return bytes to be filled, aligned as torch's own are.

    NumPy asks for huge pages and torch does not: a large tensor is filled in a fifth of the time.
    """
    room = np.empty(nbytes + ALIGNMENT, dtype=np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return torch.from_numpy(room[start : start + nbytes])


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)
