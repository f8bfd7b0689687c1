"""The audit trail of calls that were refused because of their caller, written at a limited rate.

Every entry costs a flush to the disk, and unknown callers can cause any number of them. Entries of
authenticated and of unknown callers therefore have separate rate limits, so that unknown callers
cannot displace the entries of authenticated ones. If there are too many entries, those of unknown
callers are deleted first.
"""

from __future__ import annotations

import threading
import time
from datetime import datetime

import grpc

from fedunlearn.requests.store import RequestStore
from fedunlearn.service.errors import Reason, ServiceRefusal

BURST = 500
PER_SECOND = 10.0
AUDITED_CODES = frozenset({grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED})
# Only callers that signed with a registered key get these reasons.
AUTHENTICATED_REASONS = frozenset(
    {
        Reason.AUDIENCE_MISMATCH,
        Reason.FEDERATION_MISMATCH,
        Reason.NOT_YOUR_NODE,
        Reason.NOT_YOUR_REQUEST,
        Reason.OPERATOR_ONLY,
        Reason.RECORD_NOT_COMMITTED,
        Reason.CALL_REPLAYED,
    }
)


class _RateLimit:
    """A token bucket: at most ``BURST`` at once, and ``PER_SECOND`` in the long run."""

    def __init__(self) -> None:
        self._left = float(BURST)
        self._filled = time.monotonic()

    def take(self) -> bool:
        """Take one token; return whether there was one."""
        now = time.monotonic()
        self._left = min(BURST, self._left + PER_SECOND * (now - self._filled))
        self._filled = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Audits:
    """Writes audit entries at a limited rate."""

    def __init__(self, store: RequestStore) -> None:
        """Write to a request store."""
        self._store = store
        self._lock = threading.Lock()
        self._unknown, self._authenticated = _RateLimit(), _RateLimit()
        self._dropped = 0

    def wanted(self, refusal: ServiceRefusal) -> bool:
        """Return whether a refusal is to be audited and its rate limit allows it."""
        if refusal.code not in AUDITED_CODES or refusal.reason is Reason.CREDENTIAL_MISSING:
            return False
        authenticated = refusal.reason in AUTHENTICATED_REASONS
        limit = self._authenticated if authenticated else self._unknown
        with self._lock:
            taken = limit.take()
            self._dropped += not taken
            return taken

    def write(
        self, refusal: ServiceRefusal, *, method: str, key_id: str, peer: str, now: datetime
    ) -> None:
        """Write an audit entry.

        Args:
            refusal: The refusal that was sent.
            method: Name of the method that was called.
            key_id: Id of the key that the caller named; it is only a claim.
            peer: Address of the caller.
            now: The current time.
        """
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        detail = f"{method}; {dropped} more were not written" if dropped else method
        self._store.audit(
            refusal.reason.value,
            key_id=key_id,
            peer=peer,
            detail=detail,
            now=now,
            lasting=AUTHENTICATED_REASONS,
        )
