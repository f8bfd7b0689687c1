"""Chunks on the wire are protobuf's own, and tensors come out as they went in."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.questions.chunks import (
    CHUNK,
    MAX_MESSAGE,
    Assembly,
    announce,
    as_payload,
    chunk_of,
    cut,
    wire_bytes,
)
from fedunlearn.rpc.v1 import session_pb2 as pb

DTYPES = (torch.float32, torch.float64)


def sent(tensor: torch.Tensor, payload: torch.dtype | None = None) -> torch.Tensor:
    bytes_of = as_payload(tensor, payload)
    assembly = Assembly([announce("x", tensor, bytes_of.dtype)])
    for frame in cut(bytes_of):
        assert len(frame) <= MAX_MESSAGE
        chunk = chunk_of(frame)
        assert chunk is not None
        assembly.take(chunk)
    assert assembly.complete
    return assembly.tensors()["x"]


@given(st.binary(min_size=1, max_size=300))
def test_a_frame_is_what_protobuf_writes_and_reads(data: bytes) -> None:
    (frame,) = cut(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    for message in (pb.AttendRequest, pb.AttendResponse):
        assert message(chunk=data).SerializeToString() == frame
        assert message.FromString(frame).chunk == data
    read = chunk_of(frame)
    assert read is not None and bytes(read) == data


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0, 5), (1,), (3, 7), (2 * CHUNK // 4 + 3,)], ids=str)
def test_tensors_of_any_shape_survive(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = sent(tensor)
    assert torch.equal(found, tensor) and found.dtype == dtype


def test_rows_that_are_not_contiguous_survive() -> None:
    tensor = torch.arange(12.0).reshape(3, 4).T
    assert torch.equal(sent(tensor), tensor)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bfloat16_takes_half_of_float32_and_rounds_to_nearest(dtype: torch.dtype) -> None:
    tensor = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    header = announce("x", tensor, torch.bfloat16)
    assert wire_bytes(header) == 2000
    found = sent(tensor, torch.bfloat16)
    assert found.dtype == dtype
    assert ((found - tensor).abs() <= 2.0**-8 * tensor.abs()).all()
    assert torch.equal(found, tensor.to(torch.bfloat16).to(dtype))


def test_what_is_no_chunk_is_told_apart() -> None:
    assert chunk_of(pb.AttendRequest(failure=pb.Failure(number=1)).SerializeToString()) is None
    assert chunk_of(b"") is None


@pytest.mark.parametrize(
    "frame", [b"\x12", b"\x12\x05abc", b"\x12\x02abc", b"\x12\xff\xff\xff\xff\xff\xff"]
)
def test_a_chunk_that_does_not_parse_is_refused(frame: bytes) -> None:
    with pytest.raises(ValueError, match="does not parse"):
        chunk_of(frame)


@pytest.mark.parametrize("more", [b"", b"12345"], ids=["none", "too many"])
def test_bytes_that_were_not_announced_are_refused(more: bytes) -> None:
    assembly = Assembly([announce("x", torch.zeros(1), torch.float32)])
    with pytest.raises(ValueError, match="more bytes than were announced"):
        assembly.take(memoryview(more))


def test_dtypes_that_cannot_be_sent_are_named() -> None:
    with pytest.raises(ValueError, match="int64 cannot be sent"):
        announce("x", torch.zeros(1, dtype=torch.int64), torch.float32)
    with pytest.raises(ValueError, match="unknown dtype"):
        wire_bytes(pb.TensorHeader(name="x", shape=[1], dtype=7, payload=1))
