"""The client of DeletionService: signs what it sends, and raises what the service refuses."""

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
# The service's clock may be behind, though by less than it lets pass.
BACKDATED = timedelta(seconds=5)
PAUSES_S = (0.2, 0.5, 1.0, 2.0)  # between attempts
MOST_PAUSE_S = 5.0
KEEPALIVE_MS = 30_000
LARGEST = 2**26  # of an answer; a receipt of many checkpoints, a page of requests

_Answer = TypeVar("_Answer", bound=Message)


class DeletionClient:
    """Speaks to a service in the name of one key; threads may share it.

    Every call raises ServiceError where the service refuses, or cannot be reached.
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
            key: The caller's; without it only ``info`` can be asked for, and what a certificate
                vouches for.
            audience: That the service must name itself; left out, it is believed, and one that
                lies gets signatures that are good for another.
            plaintext: Without TLS.
            root_certificates: PEM, that the server's certificate goes back to; left out, those that
                gRPC brings.
            certificate: PEM, the client's own for mutual TLS.
            certificate_key: PEM, its key.
            timeout_s: How long a call may take; a watch lasts as long as it lasts.
        """
        self.address = address
        self._key = key
        self._audience = audience
        self._timeout = timeout_s
        options = (
            proxy_option(address),
            ("grpc.max_receive_message_length", LARGEST),
            # A watch notices that the service is gone also where nobody says so.
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
        """Ask what the service is, which is its current model, and what it takes."""
        found = self._send(
            "GetServiceInfo", pb.GetServiceInfoRequest(), pb.GetServiceInfoResponse, signed=False
        )
        if self._audience not in (None, found.audience):
            raise ServiceError(
                f"the service names itself {quoted(found.audience)}, not {self._audience}",
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
        """Ask for a removal; durable when it returns.

        Args:
            scope: What is to be removed.
            model: sha256 of the model file that the owner has seen, hexadecimal; left out, the
                current one.
            request_id: UUID4; left out, a new one.
            lasts: How long the statement is good.

        Returns:
            The request as it is stored.

        Raises:
            ServiceError: The service refused, or cannot be reached.
        """
        info = self.info() if model is None else self._known()
        seen = info.model_sha256.hex() if model is None else model
        if not seen:
            raise ServiceError(
                "the service has no model yet, so there is nothing to remove from",
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
        # The same statement again gets the same answer, so it may be sent again.
        return self._send(
            "CreateDeletion", request, pb.CreateDeletionResponse, signed=False
        ).deletion

    def get(self, id: str) -> pb.Deletion:
        """Return a request."""
        return self._send(
            "GetDeletion", pb.GetDeletionRequest(id=id), pb.GetDeletionResponse
        ).deletion

    def list(self, states: Iterable[State] = (), *, page_size: int = 0) -> Iterator[pb.Deletion]:
        """Tell the caller's requests, an operator's being all; the oldest first.

        Args:
            states: Only in these; all where there are none.
            page_size: How many are fetched at once; 0 for what the service thinks right.

        Yields:
            One request after the other.

        Raises:
            ServiceError: The service refused, or cannot be reached.
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
        """Take a request of the caller's back that does not run yet."""
        request = pb.CancelDeletionRequest(id=id)
        return self._send("CancelDeletion", request, pb.CancelDeletionResponse, once=True).deletion

    def approve(self, id: str) -> pb.Deletion:
        """Let a request run that waits for it."""
        request = pb.ApproveDeletionRequest(id=id)
        return self._send(
            "ApproveDeletion", request, pb.ApproveDeletionResponse, once=True
        ).deletion

    def reject(self, id: str, reason: str) -> pb.Deletion:
        """Refuse a request that does not run."""
        request = pb.RejectDeletionRequest(id=id, reason=reason)
        return self._send("RejectDeletion", request, pb.RejectDeletionResponse, once=True).deletion

    def retry(self, id: str) -> pb.Deletion:
        """Let a request run again that failed."""
        request = pb.RetryDeletionRequest(id=id)
        return self._send("RetryDeletion", request, pb.RetryDeletionResponse, once=True).deletion

    def extend(self, id: str, due: datetime, reason: str) -> pb.Deletion:
        """Move the date by which a request must be done, once.

        Args:
            id: Of the request.
            due: The new date, at most three months after the request came.
            reason: Why.

        Returns:
            The request.

        Raises:
            ServiceError: The service refused, or cannot be reached.
        """
        request = pb.ExtendDeletionRequest(id=id, due=timestamp(due), reason=reason)
        return self._send("ExtendDeletion", request, pb.ExtendDeletionResponse, once=True).deletion

    def receipt(self, id: str) -> bytes:
        """Return the receipt of a request that has succeeded, as it was issued."""
        request = pb.GetReceiptRequest(id=id)
        return self._send("GetReceipt", request, pb.GetReceiptResponse).receipt

    def watch(self, id: str, after: int = 0, *, patience_s: float = 60.0) -> Iterator[pb.Event]:
        """Tell every change of a request until it has ended, also over breaks of the connection.

        Args:
            id: Of the request.
            after: Number of the last change that was seen; 0 for all.
            patience_s: How long the service may be away, in seconds.

        Yields:
            One change after the other.

        Raises:
            ServiceError: The service refused, or is away for too long.
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
                "a key is needed to sign with", code="UNAUTHENTICATED", reason="CREDENTIAL_MISSING"
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
        """Call, and call again where the service was not there; never what changes a state."""
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
            return ()  # the certificate may vouch
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
            f"the service answered with what is no {answer.DESCRIPTOR.name}; is the address right?",
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
