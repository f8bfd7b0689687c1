"""Refusals of the service: one status code for each reason, with error details (AIP-193)."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, NoReturn

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from fedunlearn.errors import ServiceError

DOMAIN = "fedunlearn"
# Error details are sent as metadata, of which peers accept 8 KiB.
MOST_VIOLATIONS = 16
MOST_CHARACTERS = 200


class Reason(enum.StrEnum):
    """The reason why a call was refused; the field ``reason`` of ErrorInfo."""

    MALFORMED = "MALFORMED"
    FIELD_INVALID = "FIELD_INVALID"
    CREDENTIAL_MISSING = "CREDENTIAL_MISSING"
    CREDENTIAL_MALFORMED = "CREDENTIAL_MALFORMED"
    SIGNATURE_INVALID = "SIGNATURE_INVALID"
    SIGNATURE_EXPIRED = "SIGNATURE_EXPIRED"
    SIGNATURE_NOT_YET_VALID = "SIGNATURE_NOT_YET_VALID"
    SIGNATURE_TOO_LONG = "SIGNATURE_TOO_LONG"
    CALL_REPLAYED = "CALL_REPLAYED"
    KEY_UNKNOWN = "KEY_UNKNOWN"
    KEY_REVOKED = "KEY_REVOKED"
    AUDIENCE_MISMATCH = "AUDIENCE_MISMATCH"
    FEDERATION_MISMATCH = "FEDERATION_MISMATCH"
    NOT_YOUR_NODE = "NOT_YOUR_NODE"
    NOT_YOUR_REQUEST = "NOT_YOUR_REQUEST"
    OPERATOR_ONLY = "OPERATOR_ONLY"
    RECORD_NOT_COMMITTED = "RECORD_NOT_COMMITTED"
    NODE_NOT_COMMITTED = "NODE_NOT_COMMITTED"
    NODE_LEFT = "NODE_LEFT"
    CLASS_UNKNOWN = "CLASS_UNKNOWN"
    MODEL_UNKNOWN = "MODEL_UNKNOWN"
    STATE_CONFLICT = "STATE_CONFLICT"
    RECEIPT_NOT_READY = "RECEIPT_NOT_READY"
    DELETION_NOT_FOUND = "DELETION_NOT_FOUND"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    STORE_BUSY = "STORE_BUSY"
    SERVER_STOPPING = "SERVER_STOPPING"
    WATCH_TOO_LONG = "WATCH_TOO_LONG"
    INTERNAL_FAILURE = "INTERNAL_FAILURE"


_Code = grpc.StatusCode
_REASONS: Mapping[grpc.StatusCode, str] = {
    _Code.INVALID_ARGUMENT: "MALFORMED FIELD_INVALID",
    _Code.UNAUTHENTICATED: "CREDENTIAL_MISSING CREDENTIAL_MALFORMED SIGNATURE_INVALID "
    "SIGNATURE_EXPIRED SIGNATURE_NOT_YET_VALID SIGNATURE_TOO_LONG CALL_REPLAYED",
    _Code.PERMISSION_DENIED: "KEY_UNKNOWN KEY_REVOKED AUDIENCE_MISMATCH FEDERATION_MISMATCH "
    "NOT_YOUR_NODE NOT_YOUR_REQUEST OPERATOR_ONLY RECORD_NOT_COMMITTED",
    _Code.FAILED_PRECONDITION: "NODE_NOT_COMMITTED NODE_LEFT CLASS_UNKNOWN MODEL_UNKNOWN "
    "STATE_CONFLICT RECEIPT_NOT_READY",
    _Code.NOT_FOUND: "DELETION_NOT_FOUND",
    _Code.ALREADY_EXISTS: "REQUEST_ID_REUSED",
    _Code.RESOURCE_EXHAUSTED: "QUOTA_EXCEEDED",
    _Code.UNAVAILABLE: "STORE_BUSY SERVER_STOPPING WATCH_TOO_LONG INTERNAL_FAILURE",
}
CODES: Mapping[Reason, grpc.StatusCode] = MappingProxyType(
    {Reason(name): code for code, names in _REASONS.items() for name in names.split()}
)
# The time a client should wait before it tries again, in seconds.
RETRY_S: Mapping[Reason, float] = MappingProxyType(
    {
        Reason.STORE_BUSY: 1.0,
        Reason.SERVER_STOPPING: 1.0,
        Reason.WATCH_TOO_LONG: 0.0,
        Reason.INTERNAL_FAILURE: 5.0,
    }
)


class Violation(NamedTuple):
    """A violation of the rule of a field.

    Attributes:
        field: Path of the field in the request, such as ``records.records[2].index``.
        wish: Description of a correct value.
    """

    field: str
    wish: str


class ServiceRefusal(Exception):
    """An error with which the service answers a call.

    Attributes:
        reason: Reason of the refusal; it determines the status code.
        violations: Violations of fields or quotas.
        metadata: Metadata of ErrorInfo.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        violations: Sequence[Violation] = (),
        metadata: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Build a refusal whose message states the problem and its remedy."""
        super().__init__(message)
        self.reason = reason
        self.violations = tuple(violations)[:MOST_VIOLATIONS]
        self.metadata = dict(metadata)

    @property
    def code(self) -> grpc.StatusCode:
        """The status code."""
        return CODES[self.reason]

    def status(self) -> status_pb2.Status:
        """Return the status with its details."""
        info = error_details_pb2.ErrorInfo(
            reason=self.reason, domain=DOMAIN, metadata=self.metadata
        )
        status = status_pb2.Status(code=self.code.value[0], message=_short(str(self), 500))
        _add(status, info, *self._particulars())
        return status

    def _particulars(self) -> Iterable[Message]:
        if self.reason is Reason.FIELD_INVALID:
            yield error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=_short(one.field), description=_short(one.wish)
                    )
                    for one in self.violations
                ]
            )
        if self.reason is Reason.QUOTA_EXCEEDED:
            yield error_details_pb2.QuotaFailure(
                violations=[
                    error_details_pb2.QuotaFailure.Violation(
                        subject=_short(one.field), description=_short(one.wish)
                    )
                    for one in self.violations
                ]
            )
        if self.reason in RETRY_S:
            delay = Duration()
            delay.FromMilliseconds(round(1000 * RETRY_S[self.reason]))
            yield error_details_pb2.RetryInfo(retry_delay=delay)


def refuse_fields(violations: Sequence[Violation]) -> NoReturn:
    """Refuse a call because of its fields; the message names the first one.

    Raises:
        ServiceRefusal: Always.
    """
    first = violations[0]
    raise ServiceRefusal(
        Reason.FIELD_INVALID, f"{first.field}: {first.wish}", violations=violations
    )


def service_error(error: grpc.RpcError) -> ServiceError:
    """Return the error that a client raises for a gRPC error."""
    code = error.code()
    message = error.details() or ""
    info = error_info(error)
    if info is None and code is grpc.StatusCode.UNAVAILABLE:
        message = f"the service cannot be reached ({message}); check the address"
    return ServiceError(message, code=code.name, reason=info.reason if info else "")


def error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo | None:
    """Return the ErrorInfo of an error, or None."""
    for detail in details(error):
        if isinstance(detail, error_details_pb2.ErrorInfo):
            return detail
    return None


def details(error: grpc.RpcError) -> list[Message]:
    """Return the details of an error; an empty list if they cannot be read."""
    known = (
        error_details_pb2.ErrorInfo,
        error_details_pb2.BadRequest,
        error_details_pb2.QuotaFailure,
        error_details_pb2.RetryInfo,
    )
    try:
        status = rpc_status.from_call(error)
    except (DecodeError, ValueError):  # there is no status, or it belongs to another error
        return []
    found: list[Message] = []
    for detail in status.details if status else ():
        for kind in known:
            if detail.Is(kind.DESCRIPTOR):
                try:
                    found.append(kind.FromString(detail.value))
                except DecodeError:
                    return []
    return found


def _add(status: status_pb2.Status, *particulars: Message) -> None:
    for message in particulars:
        status.details.add().Pack(message)


def _short(text: str, most: int = MOST_CHARACTERS) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
