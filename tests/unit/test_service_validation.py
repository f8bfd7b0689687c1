"""Bodies of strangers cost no more than they are worth."""

from __future__ import annotations

import time

import pytest
from google.protobuf.message import Message

from fedunlearn.rpc.v1 import deletion_pb2 as pb
from fedunlearn.service.errors import Reason, ServiceRefusal
from fedunlearn.service.validation import parsed, parsed_field

UNKNOWN = b"\x78\x01" * 500_000  # field 15, which no message has
INSIDE = b"\x0a" + b"\xc0\x84\x3d" + UNKNOWN  # of field 1


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (pb.GetServiceInfoRequest, UNKNOWN),
        (pb.CreateDeletionRequest, UNKNOWN),
        (pb.CreateDeletionRequest, INSIDE),
        (pb.Scope, UNKNOWN),
        (pb.Scope, INSIDE),
    ],
)
def test_half_a_million_unknown_fields_are_refused_at_once(
    kind: type[Message], body: bytes
) -> None:
    begun = time.perf_counter()
    for read in (lambda: parsed(kind, body), lambda: parsed_field(kind, "scope", body)):
        with pytest.raises(ServiceRefusal) as refusal:
            read()
        assert refusal.value.reason is Reason.FIELD_INVALID
        assert "does not know" in str(refusal.value)
    assert time.perf_counter() - begun < 0.1  # one by one: 0.6 s each


def test_a_few_unknown_fields_are_named() -> None:
    body = b"\x78\x01" * 3
    with pytest.raises(ServiceRefusal) as refusal:
        parsed(pb.GetServiceInfoRequest, body)
    assert [one.wish for one in refusal.value.violations] == ["has no field number 15"] * 3
