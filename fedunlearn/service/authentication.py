"""Authentication: signed statements, call credentials, and keys of client certificates."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NoReturn, TypeVar

from google.protobuf.message import DecodeError

from fedunlearn.errors import VerificationError
from fedunlearn.requests.principals import Principal
from fedunlearn.requests.statement import CALL_TYPE, DELETION_TYPE
from fedunlearn.rpc.v1 import deletion_pb2 as pb
from fedunlearn.service.errors import Reason, ServiceRefusal
from fedunlearn.service.names import CALL_KEY
from fedunlearn.service.snapshot import Snapshot
from fedunlearn.service.tls import certified_key_id
from fedunlearn.service.validation import parsed_field, time_of, violations

SKEW = timedelta(seconds=60)
LONGEST_STATEMENT = timedelta(hours=1)
LONGEST_CALL = timedelta(minutes=5)

_Message = TypeVar("_Message", pb.Signed, pb.CallStatement)


@dataclass(frozen=True)
class Caller:
    """The authenticated caller of a method.

    Attributes:
        principal: The registered principal.
        nonce: Nonce of the call, which must not be accepted twice; empty if the caller was
            authenticated by a certificate.
        expires: Time until which the nonce must be stored.
    """

    principal: Principal
    nonce: bytes = b""
    expires: datetime | None = None

    @property
    def actor(self) -> str:
        """The caller as events name it: role and name."""
        return f"{self.principal.role} {self.principal.name}"

    @property
    def is_operator(self) -> bool:
        """Whether the caller is an operator."""
        return self.principal.role == "operator"


class Nonces:
    """The nonces of the last minutes; their number is bounded by the lifetime of a call."""

    def __init__(self) -> None:
        """Start without nonces."""
        self._seen: set[tuple[str, bytes]] = set()
        self._order: deque[tuple[datetime, tuple[str, bytes]]] = deque()

    def take(self, key_id: str, nonce: bytes, now: datetime) -> bool:
        """Store a nonce; return False if it was seen before."""
        while self._order and self._order[0][0] < now:
            self._seen.discard(self._order.popleft()[1])
        one = (key_id, nonce)
        if one in self._seen:
            return False
        self._seen.add(one)
        # From then on, an expired call is refused because of its time.
        self._order.append((now + LONGEST_CALL + 2 * SKEW, one))
        return True


class Authenticator:
    """Checks signatures, audiences and times of statements and calls."""

    def __init__(self, audience: str, federation: str) -> None:
        """Store what statements must name.

        Args:
            audience: Name of the service.
            federation: Name of the federation whose models the service manages.
        """
        self._audience = audience
        self._federation = federation
        self._nonces = Nonces()

    def statement(
        self, signed: pb.Signed, scope: bytes, snapshot: Snapshot, now: datetime
    ) -> tuple[Principal, pb.DeletionStatement]:
        """Check the signed statement of a deletion request.

        Args:
            signed: The signed statement; its fields have been checked.
            scope: Bytes of the scope in the same request.
            snapshot: Snapshot of the store.
            now: The current time.

        Returns:
            The principal who signed, and the statement, whose fields have been checked.

        Raises:
            ServiceRefusal: The key, the signature, a field, the audience or a time is wrong.
        """
        principal = principal_of(signed.key_id, snapshot)
        _verify(principal, DELETION_TYPE, signed)
        statement = parsed_field(pb.DeletionStatement, "statement.payload", signed.payload)
        self._check_audience(statement.audience)
        if statement.federation != self._federation:
            raise ServiceRefusal(
                Reason.FEDERATION_MISMATCH,
                f"the statement is for federation {statement.federation!r}; this is the service "
                f"of federation {self._federation!r}",
            )
        _in_time(statement, LONGEST_STATEMENT, now)
        if statement.scope_sha256 != hashlib.sha256(scope).digest():
            raise ServiceRefusal(
                Reason.SIGNATURE_INVALID,
                "the scope is not the one that was signed; statement.payload.scope_sha256 must be "
                "the sha256 of the field scope",
            )
        return principal, statement

    def call(
        self,
        method: str,
        body: bytes,
        metadata: Sequence[tuple[str, str | bytes]],
        auth_context: Mapping[str, Sequence[bytes]],
        snapshot: Snapshot,
        now: datetime,
    ) -> Caller:
        """Authenticate the caller of any other method.

        Args:
            method: Full name of the method.
            body: The serialized request.
            metadata: Metadata of the call.
            auth_context: Properties of the peer that TLS has verified.
            snapshot: Snapshot of the store.
            now: The current time.

        Returns:
            The caller.

        Raises:
            ServiceRefusal: There is no credential, or it is wrong, has expired or was used before.
        """
        given = [value for key, value in metadata if key == CALL_KEY]
        if not given:
            principal = _certified(auth_context, snapshot)
            if principal is None:
                raise ServiceRefusal(
                    Reason.CREDENTIAL_MISSING,
                    f"the call carries no credential; sign a CallStatement and send it as "
                    f"metadata {CALL_KEY!r}",
                )
            return Caller(principal)
        if len(given) > 1 or not isinstance(given[0], bytes):
            _refuse_credential("there must be exactly one binary value")
        signed = _read(pb.Signed, given[0])
        principal = principal_of(signed.key_id, snapshot)
        _verify(principal, CALL_TYPE, signed)
        statement = _read(pb.CallStatement, signed.payload)
        self._check_audience(statement.audience)
        if statement.method != method or (
            statement.request_sha256 != hashlib.sha256(body).digest()
        ):
            raise ServiceRefusal(
                Reason.SIGNATURE_INVALID,
                f"the credential was signed for another call of {statement.method}; sign one for "
                f"this method and request",
            )
        _in_time(statement, LONGEST_CALL, now)
        if not self._nonces.take(signed.key_id, statement.nonce, now):
            refuse_replay()
        return Caller(principal, statement.nonce, time_of(statement.expires))

    def _check_audience(self, audience: str) -> None:
        if audience != self._audience:
            raise ServiceRefusal(
                Reason.AUDIENCE_MISMATCH,
                f"the signed statement is for {audience!r}; this service is {self._audience!r}",
            )


def principal_of(key_id: str, snapshot: Snapshot) -> Principal:
    """Return the principal to whom a key belongs now.

    Args:
        key_id: Id of the key.
        snapshot: Snapshot of the store.

    Returns:
        The principal.

    Raises:
        ServiceRefusal: The key is not registered, or was revoked.
    """
    principal = snapshot.principals.get(key_id)
    if principal is None:
        raise ServiceRefusal(
            Reason.KEY_UNKNOWN, f"key {key_id} is not registered; ask the operator to register it"
        )
    if principal.revoked:
        raise ServiceRefusal(Reason.KEY_REVOKED, f"key {key_id} was revoked; use another key")
    return principal


def refuse_replay() -> NoReturn:
    """Refuse a call whose nonce was used before.

    Raises:
        ServiceRefusal: Always.
    """
    raise ServiceRefusal(
        Reason.CALL_REPLAYED, "the call's nonce was used before; sign every call with a new nonce"
    )


def _read(kind: type[_Message], body: bytes) -> _Message:
    try:
        message = kind.FromString(body)
    except (DecodeError, UnicodeDecodeError):
        _refuse_credential(f"it must be a {kind.DESCRIPTOR.full_name}")
    for wrong in violations(message):
        _refuse_credential(f"{wrong.field} {wrong.wish}")
    return message


def _refuse_credential(wish: str) -> NoReturn:
    raise ServiceRefusal(
        Reason.CREDENTIAL_MALFORMED, f"the metadata {CALL_KEY!r} is not a valid credential: {wish}"
    )


def _certified(auth_context: Mapping[str, Sequence[bytes]], snapshot: Snapshot) -> Principal | None:
    certificates = auth_context.get("x509_pem_cert", ())
    key_id = certified_key_id(bytes(certificates[0])) if certificates else None
    if key_id is None or key_id not in snapshot.principals:
        return None
    return principal_of(key_id, snapshot)


def _verify(principal: Principal, type: str, signed: pb.Signed) -> None:
    try:
        principal.key.verify(type, signed.payload, signed.signature)
    except VerificationError:
        raise ServiceRefusal(
            Reason.SIGNATURE_INVALID,
            f"the signature is not that of key {signed.key_id} over {type}",
        ) from None


def _in_time(
    statement: pb.DeletionStatement | pb.CallStatement, longest: timedelta, now: datetime
) -> None:
    issued, expires = time_of(statement.issued), time_of(statement.expires)
    if expires - issued > longest:
        raise ServiceRefusal(
            Reason.SIGNATURE_TOO_LONG,
            f"the signed statement is valid for {expires - issued}; at most {longest} is accepted",
        )
    if issued > now + SKEW:
        raise ServiceRefusal(
            Reason.SIGNATURE_NOT_YET_VALID,
            f"the signed statement is valid from {issued.isoformat()}; the service's time is "
            f"{now.isoformat()}",
        )
    if expires <= issued or expires < now - SKEW:
        raise ServiceRefusal(
            Reason.SIGNATURE_EXPIRED,
            f"the signed statement was valid until {expires.isoformat()}; the service's time is "
            f"{now.isoformat()}; sign again",
        )
