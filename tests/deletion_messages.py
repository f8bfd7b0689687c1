"""Calls of DeletionService as bytes, valid ones and such that differ from these in one place."""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from google.protobuf.message import Message

from fedunlearn.requests.keys import PrivateKey
from fedunlearn.requests.statement import CALL_TYPE, DELETION_TYPE, node_scope, timestamp
from fedunlearn.rpc.v1 import deletion_pb2 as pb
from tests.deletion_house import FEDERATION, KEYS, MODEL, now

SERVICE = "/fedunlearn.rpc.v1.DeletionService/"
CALL_KEY = "fedunlearn-call-bin"
Change = Callable[[Any], object]


@dataclass(frozen=True)
class Sent:
    """A call as it goes over the wire."""

    method: str
    body: bytes
    metadata: tuple[tuple[str, bytes], ...] = ()

    @property
    def path(self) -> str:
        return SERVICE + self.method


@dataclass(frozen=True)
class Names:
    """What calls have to name.

    Attributes:
        audience: Of the service.
        pending: A request of alice's that waits.
        awaiting: One that waits for approval.
        cancelled: One that was taken back.
        done: One that has succeeded, by which node 1 left.
        extended: One whose due date was moved.
        bobs: A request of bob's.
        tokens: Page tokens, by whose list they are of.
        used: A call that was made already, a read and a decision.
    """

    audience: str
    pending: str = ""
    awaiting: str = ""
    cancelled: str = ""
    done: str = ""
    extended: str = ""
    bobs: str = ""
    tokens: dict[str, str] = field(default_factory=dict)
    used: dict[str, Sent] = field(default_factory=dict)


def signed(
    type: str, payload: bytes, key: str | PrivateKey = "alice", change: Change | None = None
) -> pb.Signed:
    signer = KEYS[key] if isinstance(key, str) else key
    message = pb.Signed(
        payload=payload, key_id=signer.public.id, signature=signer.sign(type, payload)
    )
    if change:
        change(message)
    return message


def creating(
    names: Names,
    scope: pb.Scope | bytes | None = None,
    *,
    key: str = "alice",
    type: str = DELETION_TYPE,
    payload: bytes | None = None,
    statement: Change | None = None,
    envelope: Change | None = None,
    outer: Change | None = None,
    after: float = 0.0,
    lasts: float = 900.0,
) -> Sent:
    """Return a CreateDeletion call.

    Args:
        scope: Left out, node 0, which is alice's.
        key: Whose it is.
        type: That is signed.
        payload: In the place of the statement.
        statement: Changes the statement before it is signed.
        envelope: Changes what holds statement and signature.
        outer: Changes the request.
        after: Seconds from now to when it is issued.
        lasts: Seconds.
    """
    content = (
        scope if isinstance(scope, bytes) else (scope or node_scope(["0"])).SerializeToString()
    )
    issued = now() + timedelta(seconds=after)
    said = pb.DeletionStatement(
        audience=names.audience,
        federation=FEDERATION,
        model_sha256=bytes.fromhex(MODEL),
        request_id=str(uuid.uuid4()),
        issued=timestamp(issued),
        expires=timestamp(issued + timedelta(seconds=lasts)),
        scope_sha256=hashlib.sha256(content).digest(),
    )
    if statement:
        statement(said)
    body = said.SerializeToString() if payload is None else payload
    request = pb.CreateDeletionRequest(statement=signed(type, body, key, envelope), scope=content)
    if outer:
        outer(request)
    return Sent("CreateDeletion", request.SerializeToString())


def calling(
    names: Names,
    method: str,
    request: Message | bytes,
    *,
    key: str = "alice",
    type: str = CALL_TYPE,
    payload: bytes | None = None,
    statement: Change | None = None,
    envelope: Change | None = None,
    after: float = 0.0,
    lasts: float = 120.0,
) -> Sent:
    """Return any other call; the arguments are as above."""
    body = request if isinstance(request, bytes) else request.SerializeToString()
    issued = now() + timedelta(seconds=after)
    said = pb.CallStatement(
        audience=names.audience,
        method=SERVICE + method,
        request_sha256=hashlib.sha256(body).digest(),
        issued=timestamp(issued),
        expires=timestamp(issued + timedelta(seconds=lasts)),
        nonce=secrets.token_bytes(16),
    )
    if statement:
        statement(said)
    content = said.SerializeToString() if payload is None else payload
    credential = signed(type, content, key, envelope).SerializeToString()
    return Sent(method, body, ((CALL_KEY, credential),))


def setting(**values: Any) -> Change:
    """Return a change that sets fields, lists and times included; None clears one."""

    def change(message: Any) -> None:
        for name, value in values.items():
            message.ClearField(name)
            if isinstance(value, datetime):
                getattr(message, name).CopyFrom(timestamp(value))
            elif isinstance(value, Message):
                getattr(message, name).CopyFrom(value)
            elif isinstance(value, list):
                getattr(message, name).extend(value)
            elif value is not None:
                setattr(message, name, value)

    return change


def with_unknown_field(message: Any) -> None:
    """Add a field that no version has."""
    message.MergeFromString(b"\xc2\x3e\x02hi")  # number 1000
