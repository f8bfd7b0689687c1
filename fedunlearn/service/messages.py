"""Conversion of stored requests into the messages of the service."""

from __future__ import annotations

import base64
import binascii
import hashlib
import uuid
from datetime import datetime, timedelta
from typing import NoReturn

from fedunlearn.requests.deletion import OPEN, Deletion, Event, Stage, State
from fedunlearn.requests.statement import timestamp
from fedunlearn.rpc.v1 import deletion_pb2 as pb
from fedunlearn.service.errors import Violation, refuse_fields

_FILTER_BYTES = 8


def deletion_message(
    deletion: Deletion, now: datetime, near: timedelta, usual: timedelta | None
) -> pb.Deletion:
    """Return the message of a request.

    Args:
        deletion: The stored request.
        now: The current time.
        near: Time before the due date from which the request counts as nearly due.
        usual: Mean duration of the completed requests; None if no request is completed.

    Returns:
        The message.
    """
    message = pb.Deletion(
        id=deletion.id,
        request_id=deletion.request_id,
        owner=deletion.owner,
        state=state_name(deletion.state),
        stage=_stage(deletion.stage),
        kind=deletion.scope.kind.value,
        count=deletion.scope.count,
        scope_sha256=bytes.fromhex(deletion.scope_sha256),
        created=timestamp(deletion.created),
        due=timestamp(deletion.due),
        reason=deletion.reason,
        attempts=deletion.attempts,
        last_event=deletion.last_event,
        model_before_sha256=bytes.fromhex(deletion.model_before or ""),
        model_after_sha256=bytes.fromhex(deletion.model_after or ""),
        nodes=deletion.scope.nodes,
        labels=deletion.scope.labels,
    )
    if deletion.state in OPEN:
        message.near_due = deletion.due - now <= near
        message.expected.CopyFrom(timestamp(_expected(deletion, now, usual)))
    if deletion.ended is not None:
        message.ended.CopyFrom(timestamp(deletion.ended))
    return message


def event_message(event: Event) -> pb.Event:
    """Return the message of a change."""
    return pb.Event(
        number=event.number,
        time=timestamp(event.time),
        state=state_name(event.state),
        stage=_stage(event.stage),
        actor=event.actor,
        reason=event.reason,
    )


def state_name(state: State) -> str:
    """Return the name of a state in messages."""
    return f"STATE_{state.value}"


def state_of(value: int) -> State:
    """Return the state of a checked value in a message."""
    return State(pb.State.Name(value).removeprefix("STATE_"))


def page_token(after: str, listed: str) -> str:
    """Return the token of the page that follows a request.

    Args:
        after: Id of the last request of the previous page.
        listed: Description of the list: the caller and the states.

    Returns:
        The token, which clients send back unchanged.
    """
    return base64.urlsafe_b64encode(_filter(listed) + uuid.UUID(after).bytes).decode()


def page_start(token: str, listed: str) -> str | None:
    """Return the request after which a page begins.

    Args:
        token: Token of the page; empty for the first page.
        listed: Description of the list: the caller and the states.

    Returns:
        The request's id, or None for the first page.

    Raises:
        ServiceRefusal: The token is damaged, or belongs to another list.
    """
    if not token:
        return None
    try:
        content = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        refuse_token()
    if len(content) != _FILTER_BYTES + 16 or content[:_FILTER_BYTES] != _filter(listed):
        refuse_token()
    return str(uuid.UUID(bytes=content[_FILTER_BYTES:]))


def refuse_token() -> NoReturn:
    """Refuse a page token."""
    wish = "must be the next_page_token of a list with the same states, or empty"
    refuse_fields([Violation("page_token", wish)])


def _filter(listed: str) -> bytes:
    return hashlib.sha256(listed.encode()).digest()[:_FILTER_BYTES]


def _stage(stage: Stage | None) -> str:
    return f"STAGE_{stage.value}" if stage else "STAGE_UNSPECIFIED"


def _expected(deletion: Deletion, now: datetime, usual: timedelta | None) -> datetime:
    if usual is None:
        return deletion.due
    return max(now, min(deletion.created + usual, deletion.due))
