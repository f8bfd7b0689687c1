"""Sends calls as bytes, and says how they were answered and what was stored."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from fedunlearn.errors import ServiceError
from fedunlearn.service.client import DeletionClient
from fedunlearn.service.errors import DOMAIN, details, error_info
from tests.deletion_messages import Sent


@dataclass(frozen=True)
class Answer:
    """How a call was answered.

    Attributes:
        code: Name of the status.
        reason: Of ErrorInfo; empty without one.
        details: All that came with an error.
        bodies: Of the answers.
        message: Of an error.
    """

    code: str
    reason: str = ""
    details: tuple[Message, ...] = ()
    bodies: tuple[bytes, ...] = ()
    message: str = ""


def send(
    channel: grpc.Channel, sent: Sent, *, compressed: bool = False, timeout: float = 20.0
) -> Answer:
    """Make a call and wait for its end."""
    compression = grpc.Compression.Gzip if compressed else None
    options = {"metadata": sent.metadata, "timeout": timeout, "compression": compression}
    bodies: Sequence[bytes] = []
    try:
        if sent.method == "WatchDeletion":
            bodies = list(channel.unary_stream(sent.path)(sent.body, **options))
        else:
            bodies = [channel.unary_unary(sent.path)(sent.body, **options)]
    except grpc.RpcError as error:
        return refused(error)
    return Answer("OK", bodies=tuple(bodies))


def refused(error: grpc.RpcError) -> Answer:
    info = error_info(error)
    return Answer(
        error.code().name,
        info.reason if info else "",
        tuple(details(error)),
        message=error.details() or "",
    )


def tables(folder: Path) -> dict[str, list[tuple[object, ...]]]:
    """Return all rows of a SQLite store."""
    connection = sqlite3.connect(folder / "requests.db")
    try:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {name: connection.execute(f'SELECT * FROM "{name}"').fetchall() for (name,) in names}
    finally:
        connection.close()


def check_details(answer: Answer) -> None:
    info, *others = answer.details
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert (info.domain, info.reason) == (DOMAIN, answer.reason)
    kinds = {type(one) for one in others}
    if answer.reason == "FIELD_INVALID":
        assert kinds == {error_details_pb2.BadRequest}
        for violation in others[0].field_violations:  # type: ignore[attr-defined]
            assert violation.field and violation.description
    elif answer.reason == "QUOTA_EXCEEDED":
        assert kinds == {error_details_pb2.QuotaFailure}
    else:
        assert kinds == ({error_details_pb2.RetryInfo} if answer.code == "UNAVAILABLE" else set())


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def wait_until_revoked(client: DeletionClient) -> None:
    """Wait until the service has looked at the store again and refuses the client's key."""

    def is_revoked() -> bool:
        try:
            list(client.list())
        except ServiceError as refusal:
            return refusal.reason == "KEY_REVOKED"
        return False

    wait_for(is_revoked)
