"""A trace of calls that were refused because of who made them, which a flood cannot make a burden.

Every trace is a flush to the disk, and strangers can cause as many as they like. They cannot crowd
out the traces of those who are known: each of the two has its own measure, and the strangers' make
room first where there are too many.
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
KEPT = frozenset({grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED})
# Said only to whoever has signed with a registered key.
OF_THE_KNOWN = frozenset(
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


class _Measure:
    """So many at once, and so many a second in the long run."""

    def __init__(self) -> None:
        self._left = float(BURST)
        self._filled = time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self._left = min(BURST, self._left + PER_SECOND * (now - self._filled))
        self._filled = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Audits:
    """Writes traces, at most so many a second in the long run."""

    def __init__(self, store: RequestStore) -> None:
        """Write to a store."""
        self._store = store
        self._lock = threading.Lock()
        self._strangers, self._known = _Measure(), _Measure()
        self._dropped = 0

    def wanted(self, refusal: ServiceRefusal) -> bool:
        """Whether a refusal leaves a trace, of which there are enough already otherwise."""
        if refusal.code not in KEPT or refusal.reason is Reason.CREDENTIAL_MISSING:
            return False
        measure = self._known if refusal.reason in OF_THE_KNOWN else self._strangers
        with self._lock:
            taken = measure.take()
            self._dropped += not taken
            return taken

    def write(
        self, refusal: ServiceRefusal, *, method: str, key_id: str, peer: str, now: datetime
    ) -> None:
        """Write a trace.

        Args:
            refusal: What was answered.
            method: That was called.
            key_id: Of the key that the caller named; not more than a claim.
            peer: Its address.
            now: The time.
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
            lasting=OF_THE_KNOWN,
        )
