"""The rules of all fields of all requests, as a table; fields without a rule are refused.

Unknown fields are refused too: a client that sets one expects an effect that this service would
silently ignore.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.unknown_fields import UnknownFieldSet

from fedunlearn.names import MOST_NAME, is_name
from fedunlearn.rpc.v1 import deletion_pb2 as pb
from fedunlearn.service.errors import (
    MOST_VIOLATIONS,
    Reason,
    ServiceRefusal,
    Violation,
    refuse_fields,
)

MOST_NODES = MOST_LABELS = 1000
MOST_RECORDS = 100_000
MOST_REASON = 1000
MOST_UNKNOWN_BYTES = 4096  # above this, unknown fields are not reported one by one
NONCE_BYTES = 16
DIGEST_BYTES = 32
LONGEST_PATH = 64
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
KEY_ID = re.compile(r"[0-9a-f]{64}")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Bounds of meaningful times, which every store and calendar can represent.
EARLIEST, LATEST = 946_684_800, 7_258_118_400  # the years 2000 and 2200

_Message = TypeVar("_Message", bound=Message)
# Returns a description of a correct value, or None if the value is correct.
Rule = Callable[[Any], str | None]


@dataclass(frozen=True)
class Inner:
    """A required message inside of another message."""


@dataclass(frozen=True)
class Items:
    """One to ``most`` messages inside of another message, ascending by their field ``by``."""

    most: int
    by: str


@dataclass(frozen=True)
class Choice:
    """A oneof of which one field is required."""


@dataclass(frozen=True)
class Time:
    """A required time."""


def _size(least: int, most: int) -> Rule:
    wish = f"must be {least} to {most} bytes" if least < most else f"must be {least} bytes"
    return lambda value: None if least <= len(value) <= most else wish


def _like(pattern: re.Pattern[str], wish: str) -> Rule:
    return lambda value: None if pattern.fullmatch(value) else wish


def _line(most: int) -> Rule:
    wish = f"must be one line of 1 to {most} characters, without control characters"

    def rule(value: str) -> str | None:
        if not 1 <= len(value) <= most or not value.strip():
            return wish
        return wish if any(unicodedata.category(one) in _NOT_IN_LINES for one in value) else None

    return rule


def _between(least: int, most: int) -> Rule:
    return lambda value: None if least <= value <= most else f"must be {least} to {most}"


def _ascending(least: int, most: int) -> Rule:
    def rule(values: Any) -> str | None:
        if not least <= len(values) <= most:
            return f"must name {least} to {most}"
        listed = list(values)
        if all(one < other for one, other in itertools.pairwise(listed)):
            return None
        return "must not name one twice" if len(set(listed)) < len(listed) else "must be ascending"

    return rule


def _names(least: int, most: int) -> Rule:
    order = _ascending(least, most)

    def rule(values: Any) -> str | None:
        if any(not is_name(value) for value in values):
            return f"must be names of 1 to {MOST_NAME} printable characters, without outer blanks"
        return order(values)

    return rule


def _name_of_node(value: str) -> str | None:
    return None if is_name(value) else f"must be a name of 1 to {MOST_NAME} printable characters"


def _path(values: Any) -> str | None:
    if len(values) > LONGEST_PATH:
        return f"must have at most {LONGEST_PATH} hashes"
    if any(len(value) != DIGEST_BYTES for value in values):
        return f"must be hashes of {DIGEST_BYTES} bytes"
    return None


def _states(values: Any) -> str | None:
    if len(set(values)) < len(values):
        return "must not name one twice"
    if any(value not in _STATES for value in values):
        return "must be states of the service, not unspecified"
    return None


# Control characters, separators of lines, and single surrogates, which UTF-8 cannot encode.
_NOT_IN_LINES = frozenset({"Cc", "Cs", "Zl", "Zp"})
_STATES = frozenset(pb.State.values()) - {pb.STATE_UNSPECIFIED}
_DIGEST = _size(DIGEST_BYTES, DIGEST_BYTES)
_NAME = _line(200)
_REASON = _line(MOST_REASON)
_ID: Mapping[str, Rule] = {"id": _like(UUID, "must be the id that the service gave")}

RULES: Mapping[str, Mapping[str, Rule | Inner | Items | Choice | Time]] = MappingProxyType(
    {
        "GetServiceInfoRequest": {},
        "CreateDeletionRequest": {"statement": Inner(), "scope": _size(1, 2**26)},
        "Signed": {
            "payload": _size(1, 8192),
            "key_id": _like(KEY_ID, "must be a sha256 in hexadecimal, in lower case"),
            "signature": _size(1, 256),
        },
        "DeletionStatement": {
            "audience": _NAME,
            "federation": _NAME,
            "model_sha256": _DIGEST,
            "request_id": _like(UUID4, "must be a UUID4 in lower case, with hyphens"),
            "issued": Time(),
            "expires": Time(),
            "scope_sha256": _DIGEST,
        },
        "CallStatement": {
            "audience": _NAME,
            "method": _NAME,
            "request_sha256": _DIGEST,
            "issued": Time(),
            "expires": Time(),
            "nonce": _size(NONCE_BYTES, NONCE_BYTES),
        },
        "Scope": {"kind": Choice()},
        "NodeScope": {"nodes": _names(1, MOST_NODES)},
        "RecordScope": {"node": _name_of_node, "records": Items(MOST_RECORDS, by="index")},
        "Record": {"index": _between(0, 2**63 - 1), "commitment": _DIGEST, "path": _path},
        "ClassScope": {"labels": _names(1, MOST_LABELS), "nodes": _names(0, MOST_NODES)},
        "GetDeletionRequest": _ID,
        "ListDeletionsRequest": {
            "states": _states,
            "page_size": _between(0, 2**31 - 1),
            "page_token": lambda value: None if len(value) <= 200 else "must be one of this list",
        },
        "CancelDeletionRequest": _ID,
        "ApproveDeletionRequest": _ID,
        "RejectDeletionRequest": {**_ID, "reason": _REASON},
        "RetryDeletionRequest": _ID,
        "ExtendDeletionRequest": {**_ID, "due": Time(), "reason": _REASON},
        "WatchDeletionRequest": {**_ID, "after_event": _between(0, 2**63 - 1)},
        "GetReceiptRequest": _ID,
    }
)


def parsed(kind: type[_Message], body: bytes) -> _Message:
    """Read a request and check its fields.

    Args:
        kind: Class of the message.
        body: The serialized request.

    Returns:
        The request.

    Raises:
        ServiceRefusal: The body is no such message (MALFORMED), or a field is wrong
            (FIELD_INVALID).
    """
    try:
        message = kind.FromString(body)
    except (DecodeError, UnicodeDecodeError):
        wish = f"the body is not a {kind.DESCRIPTOR.full_name} in protobuf's encoding"
        raise ServiceRefusal(Reason.MALFORMED, wish) from None
    _refuse_any(_all_violations(message, len(body)))
    return message


def parsed_field(kind: type[_Message], field: str, body: bytes) -> _Message:
    """Read a message that is serialized in a field, and check its fields.

    Args:
        kind: Class of the message.
        field: Name of the field, for errors.
        body: The bytes of the field.

    Returns:
        The message.

    Raises:
        ServiceRefusal: The bytes are no such message, or a field of it is wrong (FIELD_INVALID).
    """
    try:
        message = kind.FromString(body)
    except (DecodeError, UnicodeDecodeError):
        wish = f"must be a {kind.DESCRIPTOR.full_name} in protobuf's encoding"
        refuse_fields([Violation(field, wish)])
    _refuse_any(_all_violations(message, len(body), field))
    return message


def _all_violations(message: Message, size: int, prefix: str = "") -> Iterator[Violation]:
    """Report all violations, but not every unknown field if there are very many of them."""
    if size > MOST_UNKNOWN_BYTES:
        known = type(message)()
        known.CopyFrom(message)
        known.DiscardUnknownFields()
        if message.ByteSize() - known.ByteSize() > MOST_UNKNOWN_BYTES:
            yield Violation(prefix or "request", "has fields that this service does not know")
            return
    yield from violations(message, prefix)


def violations(message: Message, prefix: str = "") -> Iterator[Violation]:
    """Report the violations of a message.

    Args:
        message: A request, or a part of one.
        prefix: Path of the message in the request.

    Yields:
        One violation after the other, in the order of the table.
    """
    for number in _unknown(message):
        yield Violation(prefix or "request", f"has no field number {number}")
    for name, rule in RULES[message.DESCRIPTOR.name].items():
        field = f"{prefix}.{name}" if prefix else name
        yield from _of_field(message, name, field, rule)


def _of_field(
    message: Message, name: str, field: str, rule: Rule | Inner | Items | Choice | Time
) -> Iterator[Violation]:
    if isinstance(rule, Choice):
        chosen = message.WhichOneof(name)
        if chosen is None:
            options = ", ".join(one.name for one in message.DESCRIPTOR.oneofs_by_name[name].fields)
            yield Violation(field, f"must be one of {options}")
        else:
            yield from violations(getattr(message, chosen), field.removesuffix(name) + chosen)
    elif isinstance(rule, Inner | Time):
        if not message.HasField(name):
            yield Violation(field, "is required")
        elif isinstance(rule, Time):
            yield from _of_time(getattr(message, name), field)
        else:
            yield from violations(getattr(message, name), field)
    elif isinstance(rule, Items):
        items = getattr(message, name)
        order = _ascending(1, rule.most)([getattr(item, rule.by) for item in items])
        if order is not None:
            yield Violation(field, order)
        for place, item in enumerate(items):
            yield from violations(item, f"{field}[{place}]")
    elif (wish := rule(getattr(message, name))) is not None:
        yield Violation(field, wish)


def _of_time(time: Timestamp, field: str) -> Iterator[Violation]:
    for number in _unknown(time):
        yield Violation(field, f"has no field number {number}")
    if not EARLIEST <= time.seconds <= LATEST or not 0 <= time.nanos < 10**9:
        yield Violation(field, "must be a time between the years 2000 and 2200")


def time_of(time: Timestamp) -> datetime:
    """Return a checked time, to the microsecond."""
    return EPOCH + timedelta(seconds=time.seconds, microseconds=time.nanos // 1000)


def _unknown(message: Message) -> Iterator[int]:
    found = UnknownFieldSet(message)
    for place in range(len(found)):
        yield found[place].field_number


def _refuse_any(found: Iterator[Violation]) -> None:
    listed = [one for one, _ in zip(found, range(MOST_VIOLATIONS), strict=False)]
    if listed:
        refuse_fields(listed)
