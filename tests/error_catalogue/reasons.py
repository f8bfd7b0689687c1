"""One real call for every reason by which the deletion service refuses one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from fedunlearn.errors import StoreError
from fedunlearn.requests.statement import record_scope
from fedunlearn.rpc.v1 import deletion_pb2 as pb
from tests.deletion_catalogue import CATALOGUE
from tests.deletion_catalogue.calls import valid
from tests.deletion_house import COMMITMENTS, House, house
from tests.deletion_messages import calling, creating
from tests.deletion_wire import Answer, refused
from tests.integration.test_deletion_catalogue import Place

# Of the catalogue of calls that must be refused, the one whose message is shown.
CASES = {
    "MALFORMED": "GetDeletion, no protobuf",
    "FIELD_INVALID": "GetDeletion, an id empty",
    "CREDENTIAL_MISSING": "GetDeletion, no credential",
    "CREDENTIAL_MALFORMED": "GetDeletion, a short nonce",
    "SIGNATURE_INVALID": "GetDeletion, a changed signature",
    "SIGNATURE_EXPIRED": "GetDeletion, an expired credential",
    "SIGNATURE_NOT_YET_VALID": "GetDeletion, a credential for later",
    "SIGNATURE_TOO_LONG": "GetDeletion, a credential for too long",
    "CALL_REPLAYED": "GetDeletion, a read that was made",
    "KEY_UNKNOWN": "GetDeletion, a stranger's credential",
    "KEY_REVOKED": "GetDeletion, a revoked credential",
    "AUDIENCE_MISMATCH": "GetDeletion, a foreign credential",
    "NOT_YOUR_REQUEST": "GetDeletion, of another's",
    "OPERATOR_ONLY": "ApproveDeletion, by an owner",
    "STATE_CONFLICT": "ApproveDeletion, pending",
    "RECEIPT_NOT_READY": "GetReceipt, too early",
    "DELETION_NOT_FOUND": "GetDeletion, of nothing",
}


def _case_of(reason: str) -> str:
    """Return the case of a reason; of requests, the first of them."""
    found = CASES.get(reason)
    return found or next(name for name, case in CATALOGUE.items() if case.reason == reason)


class Refusals:
    """A service with requests in every state, and the calls that it refuses."""

    def __init__(self, opened: House, patch: pytest.MonkeyPatch) -> None:
        self._place = Place(opened)
        self._patch = patch
        self.names = self._place.names

    def close(self) -> None:
        self._place.channel.close()

    def refused(self, reason: str) -> Answer:
        """Make a call that is refused for a reason."""
        special = getattr(self, f"_{reason.lower()}", None)
        if special is not None:
            found: Answer = special()
            return found
        case = CATALOGUE[_case_of(reason)]
        return self._place.send(case.build(self.names), compressed=case.compressed)

    def _with_store(self, error: Exception) -> Answer:
        def fail(*_: object, **__: object) -> Any:
            raise error

        with self._patch.context() as broken:
            broken.setattr(self._place.house.store, "get", fail)
            return self._place.send(valid("GetDeletion", self.names))

    def _store_busy(self) -> Answer:
        return self._with_store(StoreError("busy"))

    def _internal_failure(self) -> Answer:
        return self._with_store(RuntimeError("a fault"))

    def _watch(self) -> Any:
        request = pb.WatchDeletionRequest(id=self.names.awaiting)
        sent = calling(self.names, "WatchDeletion", request, key="bob")
        call = self._place.channel.unary_stream(sent.path)(sent.body, metadata=sent.metadata)
        next(call)
        return call

    def _end_of(self, call: Any) -> Answer:
        with pytest.raises(grpc.RpcError) as ended:
            list(call)
        return refused(ended.value)

    def _watch_too_long(self) -> Answer:
        return self._end_of(self._watch())

    def _quota_exceeded(self) -> Answer:
        for record in range(10, 40):
            scope = record_scope("0", COMMITMENTS["0"], [record])
            answer = self._place.send(creating(self.names, scope))
            if answer.code != "OK":
                return answer
        raise AssertionError("the quota was never met")

    def _server_stopping(self) -> Answer:
        call = self._watch()
        self._place.house.server.stop(0.5)
        return self._end_of(call)


@contextmanager
def refusals(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Refusals]:
    """Open the service; the last call to be made is the one that meets its end."""
    settings = {"longest-watch-s": 1.0, "quota-open": 20}
    with house(folder / "state", **settings) as opened:
        found = Refusals(opened, patch)
        yield found
        found.close()
