"""What a case of the catalogue is, and the values that several fields refuse."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tests.deletion_messages import Names, Sent

Build = Callable[[Names], Sent]
UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"
MIB = 2**20
INVALID, DENIED, UNAUTHENTICATED = "INVALID_ARGUMENT", "PERMISSION_DENIED", "UNAUTHENTICATED"
PRECONDITION, EXHAUSTED = "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"


@dataclass(frozen=True)
class Case:
    """A call and what it must be answered with; without a reason where gRPC itself answers."""

    code: str
    reason: str
    build: Build
    compressed: bool = False


def ran(cases: Mapping[str, Build], code: str, reason: str) -> Iterator[tuple[str, Case]]:
    for name, build in cases.items():
        yield name, Case(code, reason, build)


def flip(message: Any) -> None:
    signature = bytearray(message.signature)
    signature[len(signature) // 2] ^= 1
    message.signature = bytes(signature)


IDS = {
    "upper case": str(uuid.UUID(int=2**127 - 1, version=4)).upper(),
    "without hyphens": uuid.uuid4().hex,
    "of version 1": "d9428888-122b-11e1-b85c-61cd3cbb3210",
    "of another variant": "d9428888-122b-41e1-c85c-61cd3cbb3210",
    "in braces": f"{{{uuid.uuid4()}}}",
    "as URN": f"urn:uuid:{uuid.uuid4()}",
    "with a space": f" {uuid.uuid4()}",
    "with a newline": f"{uuid.uuid4()}\n",
    "of digits beyond ASCII": str(uuid.UUID(int=2**127 - 1, version=4)).replace("7", "\u0667"),
    "empty": "",
}
TIMES = {
    "missing": None,
    "before 2000": datetime(1999, 12, 31, tzinfo=UTC),
    "after 2200": datetime(2201, 1, 1, tzinfo=UTC),
}
TEXTS = {
    "empty": "",
    "blank": "  ",
    "two lines": "a\nb",
    "with NUL": "a\0b",
    "of two paragraphs": "a\u2029b",
    "long": "a" * 201,
}
