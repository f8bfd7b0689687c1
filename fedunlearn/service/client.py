"""The client of DeletionService: it signs requests, and raises an error for every refusal."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from fedunlearn.addresses import proxy_option
from fedunlearn.errors import ServiceError
from fedunlearn.requests.deletion import State
from fedunlearn.requests.keys import PrivateKey
from fedunlearn.requests.quotes import quoted
from fedunlearn.requests.statement import sign_call, sign_deletion, timestamp
from fedunlearn.rpc.v1 import deletion_pb2 as pb
from fedunlearn.service.errors import service_error
from fedunlearn.service.messages import state_name
from fedunlearn.service.names import CALL_KEY, path_of

TIMEOUT_S = 30.0
STATEMENT_LASTS = timedelta(minutes=15)
CALL_LASTS = timedelta(minutes=2)
# The service's clock may be behind, but by less than the difference that it tolerates.
BACKDATED = timedelta(seconds=5)
PAUSES_S = (0.2, 0.5, 1.0, 2.0)  # between attempts
MOST_PAUSE_S = 5.0
KEEPALIVE_MS = 30_000
LARGEST = 2**26  # bytes of an answer; a receipt of many checkpoints or a page of requests fits

_Answer = TypeVar("_Answer", bound=Message)


class DeletionClient:
    """A client that calls a service with one key; threads may share it.

    Every call raises ServiceError if the service refuses it, or cannot be reached.
    """

    def __init__(
        self,
        address: str,
        key: PrivateKey | None = None,
        *,
        audience: str | None = None,
        plaintext: bool = False,
        root_certificates: bytes | None = None,
        certificate: bytes | None = None,
        certificate_key: bytes | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Prepare to connect.

        Args:
            address: ``host:port``.
            key: The caller's key; without it, only ``info`` and calls that a client certificate
                authenticates are possible.
            audience: Name that the service must have. By default, the name that the service
                states is trusted: a fraudulent service can then collect signatures that are valid
                at another service.
            plaintext: Whether to connect without TLS.
            root_certificates: Root certificates in PEM that the server's certificate must chain
                to; by default, those that gRPC includes.
            certificate: The client's certificate in PEM, for mutual TLS.
            certificate_key: Key of the client's certificate in PEM.
            timeout_s: Longest duration of a call, in seconds; watches have no such limit.
        """
        self.address = address
        self._key = key
        self._audience = audience
        self._timeout = timeout_s
        options = (
            proxy_option(address),
            ("grpc.max_receive_message_length", LARGEST),
            # With keepalive, a watch also notices a connection that was lost without a message.
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
        )
        if plaintext:
            self._channel = grpc.insecure_channel(address, options)
        else:
            credentials = grpc.ssl_channel_credentials(
                root_certificates, certificate_key, certificate
            )
            self._channel = grpc.secure_channel(address, credentials, options)
        self._info: pb.GetServiceInfoResponse | None = None

    def close(self) -> None:
        """Disconnect."""
        self._channel.close()

    def __enter__(self) -> Self:
        """Return the client, which disconnects at the end of the block."""
        return self

    def __exit__(self, *failure: object) -> None:
        """Disconnect."""
        self.close()

    def info(self) -> pb.GetServiceInfoResponse:
        """Return the service's name, its current model, and the limits of its requests."""
        found = self._send(
            "GetServiceInfo", pb.GetServiceInfoRequest(), pb.GetServiceInfoResponse, signed=False
        )
        if self._audience not in (None, found.audience):
            raise ServiceError(
                f"the service's audience is {quoted(found.audience)}, not {self._audience}",
                code="PERMISSION_DENIED",
                reason="AUDIENCE_MISMATCH",
            )
        self._info = found
        return found

    def create(
        self,
        scope: pb.Scope,
        *,
        model: str | None = None,
        request_id: str | None = None,
        lasts: timedelta = STATEMENT_LASTS,
    ) -> pb.Deletion:
        """Create a deletion request; it is stored durably when this method returns.

        Args:
            scope: The data to remove.
            model: sha256 of the model file that the owner has seen, hexadecimal; by default, of
                the current model.
            request_id: UUID4 of the request; by default, a new one.
            lasts: How long the statement is valid.

        Returns:
            The stored request.

        Raises:
            ServiceError: The service refused the call, or cannot be reached.
        """
        info = self.info() if model is None else self._known()
        seen = info.model_sha256.hex() if model is None else model
        if not seen:
            raise ServiceError(
                "the service has no model yet from which data could be removed",
                code="FAILED_PRECONDITION",
                reason="MODEL_UNKNOWN",
            )
        now = datetime.now(UTC) - BACKDATED
        request = sign_deletion(
            self._signer(),
            audience=info.audience,
            federation=info.federation,
            model=seen,
            request_id=request_id or str(uuid.uuid4()),
            scope=scope,
            issued=now,
            expires=now + lasts,
        )
        # A repeated statement gets the same answer, so it may be sent again.
        return self._send(
            "CreateDeletion", request, pb.CreateDeletionResponse, signed=False
        ).deletion

    def get(self, id: str) -> pb.Deletion:
        """Return a request."""
        return self._send(
            "GetDeletion", pb.GetDeletionRequest(id=id), pb.GetDeletionResponse
        ).deletion

    def list(self, states: Iterable[State] = (), *, page_size: int = 0) -> Iterator[pb.Deletion]:
        """List the caller's requests, or all requests for an operator; the oldest first.

        Args:
            states: States of the requests to list; all states if empty.
            page_size: Number of requests per page; 0 for the service's default.

        Yields:
            One request after the other.

        Raises:
            ServiceError: The service refused the call, or cannot be reached.
        """
        names = [state_name(state) for state in states]
        token = ""
        while True:
            page = self._send(
                "ListDeletions",
                pb.ListDeletionsRequest(states=names, page_size=page_size, page_token=token),
                pb.ListDeletionsResponse,
            )
            yield from page.deletions
            token = page.next_page_token
            if not token:
                return

    def cancel(self, id: str) -> pb.Deletion:
        """Withdraw a request of the caller that does not run yet."""
        request = pb.CancelDeletionRequest(id=id)
        return self._send("CancelDeletion", request, pb.CancelDeletionResponse, once=True).deletion

    def approve(self, id: str) -> pb.Deletion:
        """Approve a request that waits for approval."""
        request = pb.ApproveDeletionRequest(id=id)
        return self._send(
            "ApproveDeletion", request, pb.ApproveDeletionResponse, once=True
        ).deletion

    def reject(self, id: str, reason: str) -> pb.Deletion:
        """Reject a request that does not run."""
        request = pb.RejectDeletionRequest(id=id, reason=reason)
        return self._send("RejectDeletion", request, pb.RejectDeletionResponse, once=True).deletion

    def retry(self, id: str) -> pb.Deletion:
        """Queue a failed request again."""
        request = pb.RetryDeletionRequest(id=id)
        return self._send("RetryDeletion", request, pb.RetryDeletionResponse, once=True).deletion

    def extend(self, id: str, due: datetime, reason: str) -> pb.Deletion:
        """Extend the due date of a request; this is possible once.

        Args:
            id: Id of the request.
            due: The new due date, at most three months after the request was received.
            reason: Reason for the extension.

        Returns:
            The request.

        Raises:
            ServiceError: The service refused the call, or cannot be reached.
        """
        request = pb.ExtendDeletionRequest(id=id, due=timestamp(due), reason=reason)
        return self._send("ExtendDeletion", request, pb.ExtendDeletionResponse, once=True).deletion

    def receipt(self, id: str) -> bytes:
        """Return the issued receipt of a request that has succeeded."""
        request = pb.GetReceiptRequest(id=id)
        return self._send("GetReceipt", request, pb.GetReceiptResponse).receipt

    def watch(self, id: str, after: int = 0, *, patience_s: float = 60.0) -> Iterator[pb.Event]:
        """Report every change of a request until it has ended; reconnect if necessary.

        Args:
            id: Id of the request.
            after: Number of the last change that was seen; 0 for all changes.
            patience_s: How long the service may be unreachable, in seconds.

        Yields:
            One change after the other.

        Raises:
            ServiceError: The service refused the call, or was unreachable for too long.
        """
        pause, gone = PAUSES_S[0], time.monotonic()
        while True:
            try:
                for answer in self._stream(
                    pb.WatchDeletionRequest(id=id, after_event=after), pb.WatchDeletionResponse
                ):
                    after, pause, gone = answer.event.number, PAUSES_S[0], time.monotonic()
                    yield answer.event
                return
            except ServiceError as error:
                if error.code != "UNAVAILABLE":
                    raise
                if error.reason == "WATCH_TOO_LONG":
                    gone = time.monotonic()
                elif time.monotonic() - gone > patience_s:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, MOST_PAUSE_S)

    def _known(self) -> pb.GetServiceInfoResponse:
        return self._info or self.info()

    def _signer(self) -> PrivateKey:
        if self._key is None:
            raise ServiceError(
                "the call needs a signature; give a key",
                code="UNAUTHENTICATED",
                reason="CREDENTIAL_MISSING",
            )
        return self._key

    def _stream(self, request: Message, answer: type[_Answer]) -> Iterator[_Answer]:
        body = request.SerializeToString(deterministic=True)
        call = self._channel.unary_stream(path_of("WatchDeletion"))(
            body, metadata=self._credential("WatchDeletion", body)
        )
        try:
            for item in call:
                yield _read(answer, item)
        except grpc.RpcError as error:
            raise service_error(error) from None
        finally:
            call.cancel()

    def _send(
        self,
        method: str,
        request: Message,
        answer: type[_Answer],
        *,
        signed: bool = True,
        once: bool = False,
    ) -> _Answer:
        """Call a method; repeat it if the service is unreachable, unless it changes a state."""
        body = request.SerializeToString(deterministic=True)

        def attempt() -> bytes:
            metadata = self._credential(method, body) if signed else ()
            sent: bytes = self._channel.unary_unary(path_of(method))(
                body, timeout=self._timeout, metadata=metadata
            )
            return sent

        return _read(answer, _repeated(attempt, () if once else PAUSES_S))

    def _credential(self, method: str, body: bytes) -> tuple[tuple[str, bytes], ...]:
        if self._key is None:
            return ()  # a client certificate may authenticate the call
        now = datetime.now(UTC) - BACKDATED
        signed = sign_call(
            self._key,
            audience=self._known().audience,
            method=path_of(method),
            request=body,
            issued=now,
            expires=now + CALL_LASTS,
        )
        return ((CALL_KEY, signed),)


def _read(answer: type[_Answer], body: bytes) -> _Answer:
    try:
        return answer.FromString(body)
    except (DecodeError, UnicodeDecodeError):
        raise ServiceError(
            f"the service's answer is not a {answer.DESCRIPTOR.name}; check the address",
            code="INTERNAL",
        ) from None


def _repeated(attempt: Callable[[], bytes], pauses: Iterable[float]) -> bytes:
    for pause in (*pauses, None):
        try:
            return attempt()
        except grpc.RpcError as error:
            failed: Any = error
            if pause is None or failed.code() is not grpc.StatusCode.UNAVAILABLE:
                raise service_error(failed) from None
            time.sleep(pause)
    raise AssertionError("the last attempt has no pause")
