"""The frame of every call: parsing, errors with details, audit entries, and counters."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_status import rpc_status

from fedunlearn.errors import StoreError
from fedunlearn.rpc.v1 import deletion_pb2 as pb
from fedunlearn.service.audits import Audits
from fedunlearn.service.errors import Reason, ServiceRefusal
from fedunlearn.service.metrics import Metrics
from fedunlearn.service.names import CALL_KEY, path_of
from fedunlearn.service.pulse import Blocking
from fedunlearn.service.validation import KEY_ID

LOGGER = logging.getLogger("fedunlearn.service")


@dataclass(frozen=True)
class Call:
    """An incoming call.

    Attributes:
        method: Name of the method.
        body: The serialized request.
        context: The call's gRPC context.
    """

    method: str
    body: bytes
    context: Any

    @property
    def path(self) -> str:
        """The method's full name, as it is signed."""
        return path_of(self.method)

    @property
    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Metadata of the call."""
        return tuple(self.context.invocation_metadata() or ())

    def key_id(self) -> str:
        """Return the id of the key that the caller named; empty if it cannot be read."""
        try:
            if self.method == "CreateDeletion":
                signed = pb.CreateDeletionRequest.FromString(self.body).statement
            else:
                given = dict(self.metadata).get(CALL_KEY, b"")
                signed = pb.Signed.FromString(given if isinstance(given, bytes) else b"")
        except (DecodeError, UnicodeDecodeError):
            return ""
        return signed.key_id if KEY_ID.fullmatch(signed.key_id) else ""


class Calls:
    """Builds gRPC handlers from functions that return messages or raise refusals."""

    def __init__(
        self,
        metrics: Metrics,
        audits: Audits,
        blocking: Blocking,
        clock: Callable[[], datetime],
    ) -> None:
        """Store the parts that every handler uses.

        Args:
            metrics: Counters of the calls.
            audits: Writer of audit entries.
            blocking: Runs a blocking function in a thread.
            clock: Function that returns the current time.
        """
        self._metrics = metrics
        self._audits = audits
        self._blocking = blocking
        self._clock = clock

    def unary(self, method: str, function: Callable[[Call], Awaitable[Message]]) -> Any:
        """Return the handler of a call with one answer; it gets the serialized request."""

        async def handle(body: bytes, context: Any) -> bytes:
            call = Call(method, body, context)
            started = time.perf_counter()
            try:
                answer = (await function(call)).SerializeToString()
            except Exception as error:
                await self._refuse(call, error, started)
                raise
            self._metrics.answered(method, "OK", "", time.perf_counter() - started)
            return answer

        return grpc.unary_unary_rpc_method_handler(handle)

    def stream(self, method: str, function: Callable[[Call], AsyncIterator[Message]]) -> Any:
        """Return the handler of a call with many answers."""

        async def handle(body: bytes, context: Any) -> AsyncIterator[bytes]:
            call = Call(method, body, context)
            try:
                async for answer in function(call):
                    yield answer.SerializeToString()
            except Exception as error:
                await self._refuse(call, error, None)
                raise
            self._metrics.answered(method, "OK", "", None)

        return grpc.unary_stream_rpc_method_handler(handle)

    async def _refuse(self, call: Call, error: Exception, started: float | None) -> None:
        refusal = self._refusal(call.method, error)
        if self._audits.wanted(refusal):
            try:
                await self._blocking(
                    self._audits.write,
                    refusal,
                    method=call.method,
                    key_id=call.key_id(),
                    peer=call.context.peer(),
                    now=self._clock(),
                )
            except Exception as other:
                self._refusal("audit", other)
        seconds = None if started is None else time.perf_counter() - started
        self._metrics.answered(call.method, refusal.code.name, refusal.reason, seconds)
        status = rpc_status.to_status(refusal.status())
        await call.context.abort(status.code, status.details, status.trailing_metadata)

    def _refusal(self, method: str, error: Exception) -> ServiceRefusal:
        if isinstance(error, ServiceRefusal):
            return error
        if isinstance(error, StoreError):
            LOGGER.warning("%s: %s", method, error)
            return ServiceRefusal(Reason.STORE_BUSY, "the store does not answer; try again")
        # The message of an exception may contain data of the request; its traceback does not.
        places = "".join(traceback.format_tb(error.__traceback__))
        LOGGER.error("%s failed with %s at\n%s", method, type(error).__name__, places)
        return ServiceRefusal(
            Reason.INTERNAL_FAILURE, "the service failed and has logged the place; try again later"
        )
