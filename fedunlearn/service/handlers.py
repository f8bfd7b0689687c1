"""The handlers of the methods of DeletionService."""

from __future__ import annotations

import importlib.metadata
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn, TypeVar

from google.protobuf.message import Message

from fedunlearn.errors import TransitionError, UnknownDeletionError
from fedunlearn.requests.clock import months_after
from fedunlearn.requests.decisions import MOST_MONTHS
from fedunlearn.requests.deletion import Deletion, ScopeKind
from fedunlearn.requests.store import RequestStore
from fedunlearn.rpc.v1 import deletion_pb2 as pb
from fedunlearn.service.admission import Admission
from fedunlearn.service.authentication import (
    LONGEST_CALL,
    LONGEST_STATEMENT,
    SKEW,
    Authenticator,
    Caller,
    principal_of,
    refuse_replay,
)
from fedunlearn.service.calls import Call, Calls
from fedunlearn.service.errors import Reason, ServiceRefusal, Violation, refuse_fields
from fedunlearn.service.messages import (
    deletion_message,
    event_message,
    page_start,
    page_token,
    refuse_token,
    state_of,
)
from fedunlearn.service.metrics import Figures
from fedunlearn.service.pulse import Blocking, Pulse
from fedunlearn.service.service_settings import ServiceSettings
from fedunlearn.service.snapshot import Snapshot
from fedunlearn.service.validation import parsed, time_of
from fedunlearn.service.watch import Watches
from fedunlearn.service.writer import Writer

PAGE, LARGEST_PAGE = 50, 500
# Size in bytes from which a request is checked in a thread, as its proofs would delay other calls.
LARGE = 2**14
# These refusals may be wrong if the store has changed since the snapshot, which is then renewed.
_MAY_BE_OLD = frozenset(
    {
        Reason.KEY_UNKNOWN,
        Reason.NOT_YOUR_NODE,
        Reason.NODE_NOT_COMMITTED,
        Reason.RECORD_NOT_COMMITTED,
        Reason.CLASS_UNKNOWN,
        Reason.MODEL_UNKNOWN,
    }
)

# These checks come last. A repeated request may fail them although its first copy passed.
_OUTDATED = frozenset({Reason.NODE_LEFT, Reason.MODEL_UNKNOWN})

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Parts:
    """The parts of the service that the handlers use.

    Attributes:
        store: The request store.
        settings: Settings of the service.
        audience: Name of the service.
        issuer: PEM and id of the issuer's key, which signs receipts.
        clock: Function that returns the current time.
        blocking: Runs a blocking function in a thread, outside of the event loop.
        pulse: Detects changes of the store.
        writer: Stores new requests.
        watches: The calls that watch a request.
        figures: Statistics, such as the usual duration of a request.
    """

    store: RequestStore
    settings: ServiceSettings
    audience: str
    issuer: tuple[str, str]
    clock: Callable[[], datetime]
    blocking: Blocking
    pulse: Pulse
    writer: Writer
    watches: Watches
    figures: Figures


class Handlers:
    """The methods of the service, as functions of the incoming call."""

    def __init__(self, parts: Parts) -> None:
        """Store the parts."""
        self._parts = parts
        self._authenticator = Authenticator(parts.audience, parts.settings.federation)
        self._admission = Admission(parts.settings, self._authenticator)

    def method_handlers(self, calls: Calls) -> dict[str, Any]:
        """Return the gRPC handlers by method name."""
        unary: Mapping[str, Callable[[Call], Awaitable[Message]]] = {
            "GetServiceInfo": self._info,
            "CreateDeletion": self._create,
            "GetDeletion": self._get,
            "ListDeletions": self._list,
            "CancelDeletion": self._cancel,
            "ApproveDeletion": self._approve,
            "RejectDeletion": self._reject,
            "RetryDeletion": self._retry,
            "ExtendDeletion": self._extend,
            "GetReceipt": self._receipt,
        }
        handlers = {name: calls.unary(name, function) for name, function in unary.items()}
        return {**handlers, "WatchDeletion": calls.stream("WatchDeletion", self._watch)}

    async def _info(self, call: Call) -> pb.GetServiceInfoResponse:
        parsed(pb.GetServiceInfoRequest, call.body)
        parts = self._parts
        await parts.pulse.refresh()
        return pb.GetServiceInfoResponse(
            audience=parts.audience,
            federation=parts.settings.federation,
            version=importlib.metadata.version("fedunlearn"),
            model_sha256=bytes.fromhex(parts.pulse.snapshot.model or ""),
            issuer_key=parts.issuer[0],
            issuer_key_id=parts.issuer[1],
            scopes=[kind.value for kind in ScopeKind],
            most_records=parts.settings.most_records,
            most_open_requests=parts.settings.quota_open,
            most_bytes=parts.settings.most_bytes,
            longest_statement_s=int(LONGEST_STATEMENT.total_seconds()),
            longest_call_s=int(LONGEST_CALL.total_seconds()),
        )

    async def _create(self, call: Call) -> pb.CreateDeletionResponse:
        try:
            new = await self._fresh(
                lambda snapshot: self._admission.admit(
                    parsed(pb.CreateDeletionRequest, call.body), snapshot, self._parts.clock()
                ),
                elsewhere=len(call.body) > LARGE,
            )
        except ServiceRefusal as refusal:
            # A client that missed the answer repeats its request, perhaps when the removal is done
            # already, or the model that it names has been rolled back.
            stored = await self._repeated(call) if refusal.reason in _OUTDATED else None
            if stored is None:
                raise
            return pb.CreateDeletionResponse(deletion=self._shown(stored))
        deletion = await self._parts.writer.store(new)
        return pb.CreateDeletionResponse(deletion=self._shown(deletion))

    async def _repeated(self, call: Call) -> Deletion | None:
        """Return what the first copy of a repeated request created; its signature is checked."""
        request = pb.CreateDeletionRequest.FromString(call.body)
        statement = pb.DeletionStatement.FromString(request.statement.payload)
        owner = self._parts.pulse.snapshot.principals[request.statement.key_id].name
        found: Deletion | None = await self._blocking(
            self._parts.store.find, owner, statement.request_id
        )
        if found is None or found.scope_sha256 != statement.scope_sha256.hex():
            return None
        return found

    async def _get(self, call: Call) -> pb.GetDeletionResponse:
        caller = await self._caller(call)
        deletion = await self._deletion(caller, parsed(pb.GetDeletionRequest, call.body).id)
        return pb.GetDeletionResponse(deletion=self._shown(deletion))

    async def _list(self, call: Call) -> pb.ListDeletionsResponse:
        caller = await self._caller(call)
        request = parsed(pb.ListDeletionsRequest, call.body)
        owner = None if caller.is_operator else caller.principal.name
        states = sorted(state_of(value) for value in request.states)
        listed = f"{caller.actor}: {' '.join(states)}"
        after = page_start(request.page_token, listed)
        size = min(request.page_size or PAGE, LARGEST_PAGE)

        def read() -> list[Deletion]:
            if after is not None:
                try:
                    last = self._parts.store.get(after)
                except UnknownDeletionError:
                    refuse_token()
                if owner is not None and last.owner != owner:
                    refuse_token()
            return self._parts.store.list(owner=owner, states=states, after=after, limit=size + 1)

        found = await self._blocking(read)
        more = len(found) > size
        return pb.ListDeletionsResponse(
            deletions=[self._shown(one) for one in found[:size]],
            next_page_token=page_token(found[size - 1].id, listed) if more else "",
        )

    async def _cancel(self, call: Call) -> pb.CancelDeletionResponse:
        caller = await self._caller(call)
        id = parsed(pb.CancelDeletionRequest, call.body).id
        deletion = await self._deletion(caller, id)
        if deletion.owner != caller.principal.name:
            raise ServiceRefusal(
                Reason.NOT_YOUR_REQUEST,
                f"only its owner can cancel request {id}; reject it instead",
            )
        cancel = self._parts.store.cancel
        changed = await self._change(caller, lambda now: cancel(id, actor=caller.actor, now=now))
        return pb.CancelDeletionResponse(deletion=changed)

    async def _approve(self, call: Call) -> pb.ApproveDeletionResponse:
        caller = await self._operator(call)
        id = parsed(pb.ApproveDeletionRequest, call.body).id
        await self._deletion(caller, id)
        approve = self._parts.store.approve
        changed = await self._change(caller, lambda now: approve(id, actor=caller.actor, now=now))
        return pb.ApproveDeletionResponse(deletion=changed)

    async def _reject(self, call: Call) -> pb.RejectDeletionResponse:
        caller = await self._operator(call)
        request = parsed(pb.RejectDeletionRequest, call.body)
        await self._deletion(caller, request.id)
        reject = self._parts.store.reject
        changed = await self._change(
            caller,
            lambda now: reject(request.id, actor=caller.actor, reason=request.reason, now=now),
        )
        return pb.RejectDeletionResponse(deletion=changed)

    async def _retry(self, call: Call) -> pb.RetryDeletionResponse:
        caller = await self._operator(call)
        id = parsed(pb.RetryDeletionRequest, call.body).id
        await self._deletion(caller, id)
        retry = self._parts.store.retry
        changed = await self._change(caller, lambda now: retry(id, actor=caller.actor, now=now))
        return pb.RetryDeletionResponse(deletion=changed)

    async def _extend(self, call: Call) -> pb.ExtendDeletionResponse:
        caller = await self._operator(call)
        request = parsed(pb.ExtendDeletionRequest, call.body)
        deletion = await self._deletion(caller, request.id)
        due = time_of(request.due)
        latest = months_after(deletion.created, MOST_MONTHS)
        if not deletion.due < due <= latest:
            wish = f"must be after {deletion.due.isoformat()} and up to {latest.isoformat()}"
            refuse_fields([Violation("due", wish)])
        extend = self._parts.store.extend
        changed = await self._change(
            caller,
            lambda now: extend(
                request.id, actor=caller.actor, due=due, reason=request.reason, now=now
            ),
        )
        return pb.ExtendDeletionResponse(deletion=changed)

    async def _receipt(self, call: Call) -> pb.GetReceiptResponse:
        caller = await self._caller(call)
        deletion = await self._deletion(caller, parsed(pb.GetReceiptRequest, call.body).id)
        text = await self._blocking(self._parts.store.receipt, deletion.id)
        if text is None:
            raise ServiceRefusal(
                Reason.RECEIPT_NOT_READY,
                f"request {deletion.id} is {deletion.state}; its receipt is issued when it has "
                "succeeded",
            )
        return pb.GetReceiptResponse(receipt=text.encode())

    async def _watch(self, call: Call) -> AsyncIterator[pb.WatchDeletionResponse]:
        caller = await self._caller(call)
        request = parsed(pb.WatchDeletionRequest, call.body)
        deletion = await self._deletion(caller, request.id)
        events = self._parts.watches.events(deletion, caller.principal.name, request.after_event)
        async for event in events:
            # The key may have been revoked since the watch began, an hour ago at most.
            principal_of(caller.principal.key.id, self._parts.pulse.snapshot)
            yield pb.WatchDeletionResponse(event=event_message(event))

    async def _caller(self, call: Call) -> Caller:
        return await self._fresh(
            lambda snapshot: self._authenticator.call(
                call.path,
                call.body,
                call.metadata,
                call.context.auth_context(),
                snapshot,
                self._parts.clock(),
            )
        )

    async def _operator(self, call: Call) -> Caller:
        caller = await self._caller(call)
        if not caller.is_operator:
            raise ServiceRefusal(
                Reason.OPERATOR_ONLY,
                f"only an operator may call {call.method}; an owner may cancel a request",
            )
        return caller

    async def _deletion(self, caller: Caller, id: str) -> Deletion:
        try:
            deletion: Deletion = await self._blocking(self._parts.store.get, id)
        except UnknownDeletionError:
            if caller.is_operator:
                raise ServiceRefusal(
                    Reason.DELETION_NOT_FOUND, f"there is no request {id}"
                ) from None
            _refuse_foreign(id)
        if not caller.is_operator and deletion.owner != caller.principal.name:
            _refuse_foreign(id)
        return deletion

    async def _change(self, caller: Caller, change: Callable[[datetime], Deletion]) -> pb.Deletion:
        now = self._parts.clock()

        def at_once() -> Deletion:
            if caller.expires is not None and not self._parts.store.take_nonce(
                caller.principal.key.id, caller.nonce, caller.expires + SKEW, now=now
            ):
                refuse_replay()
            return change(now)

        try:
            deletion: Deletion = await self._blocking(at_once)
        except TransitionError as error:
            raise ServiceRefusal(Reason.STATE_CONFLICT, str(error)) from None
        self._parts.pulse.wake(deletion.id)
        return self._shown(deletion)

    async def _fresh(
        self, check: Callable[[Snapshot], _Result], *, elsewhere: bool = False
    ) -> _Result:
        """Check against the current snapshot, and again if that snapshot may be outdated."""
        try:
            return await self._checked(check, elsewhere)
        except ServiceRefusal as refusal:
            if refusal.reason not in _MAY_BE_OLD or not await self._parts.pulse.refresh():
                raise
        return await self._checked(check, elsewhere)

    async def _checked(self, check: Callable[[Snapshot], _Result], elsewhere: bool) -> _Result:
        snapshot = self._parts.pulse.snapshot
        if not elsewhere:
            return check(snapshot)
        found: _Result = await self._blocking(check, snapshot)
        return found

    def _shown(self, deletion: Deletion) -> pb.Deletion:
        usual = self._parts.figures.usual()
        near = self._parts.settings.near_due
        return deletion_message(deletion, self._parts.clock(), near, usual)

    async def _blocking(self, function: Callable[..., _Result], *arguments: object) -> _Result:
        found: _Result = await self._parts.blocking(function, *arguments)
        return found


def _refuse_foreign(id: str) -> NoReturn:
    """Refuse without revealing whether there is such a request (AIP-211)."""
    raise ServiceRefusal(
        Reason.NOT_YOUR_REQUEST, f"request {id} is not one of yours, or does not exist"
    )
