"""Who may have what removed, and what waits for the operator."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from fedunlearn.commitments import verify_record
from fedunlearn.errors import VerificationError
from fedunlearn.names import Names
from fedunlearn.requests.deletion import NewDeletion, Scope, ScopeKind
from fedunlearn.requests.principals import Principal
from fedunlearn.requests.statement import scope_of
from fedunlearn.rpc.v1 import deletion_pb2 as pb
from fedunlearn.service.authentication import Authenticator
from fedunlearn.service.errors import Reason, ServiceRefusal, Violation, refuse_fields
from fedunlearn.service.service_settings import ServiceSettings
from fedunlearn.service.snapshot import Snapshot
from fedunlearn.service.validation import parsed_field


class Admission:
    """Checks requests for removals; asks nothing but a snapshot of the store."""

    def __init__(self, settings: ServiceSettings, authenticator: Authenticator) -> None:
        """Check by some settings.

        Args:
            settings: Limits, and what waits for approval.
            authenticator: Checks who signed.
        """
        self._settings = settings
        self._authenticator = authenticator

    def admit(
        self, request: pb.CreateDeletionRequest, snapshot: Snapshot, now: datetime
    ) -> NewDeletion:
        """Check a request as far as it can be without the requests that are stored.

        Args:
            request: Its fields are checked.
            snapshot: Of the store.
            now: The time.

        Returns:
            What is to be stored.

        Raises:
            ServiceRefusal: It cannot be taken.
        """
        signed = request.statement
        principal, statement = self._authenticator.statement(signed, request.scope, snapshot, now)
        message = parsed_field(pb.Scope, "scope", request.scope)
        scope = scope_of(request.scope)
        if message.WhichOneof("kind") == "records":
            self._few_enough(scope)
        _owned(principal, scope, snapshot)
        _there(scope, snapshot)
        _known(scope, snapshot)
        if message.WhichOneof("kind") == "records":
            _committed(message.records, snapshot)
        model = statement.model_sha256.hex()
        if model not in snapshot.lineage:
            raise ServiceRefusal(
                Reason.MODEL_UNKNOWN,
                f"model {model} is neither the current one nor one it descends from; ask "
                "GetServiceInfo for the current one",
            )
        return NewDeletion(
            owner=principal.name,
            request_id=statement.request_id,
            key_id=signed.key_id,
            statement=signed.payload,
            signature=signed.signature,
            scope=request.scope,
            parsed=scope,
            model=model,
            received=now,
            due=now + self._settings.due_in,
            awaits_approval=self._awaits_approval(principal, scope, snapshot),
        )

    def _few_enough(self, scope: Scope) -> None:
        most = self._settings.most_records
        if scope.count > most:
            wish = f"must name at most {most}; ask for the others in another request"
            refuse_fields([Violation("scope.records.records", wish)])

    def _awaits_approval(self, principal: Principal, scope: Scope, snapshot: Snapshot) -> bool:
        if self._settings.require_approval:
            return True
        if principal.role == "operator":
            return False
        if scope.kind is ScopeKind.RECORDS:
            named = scope.count
        elif all(node in snapshot.commitments for node in scope.nodes):
            named = snapshot.records(scope.nodes)  # of a class, all that it may be at most
        else:
            return bool(snapshot.commitments)  # of unknown size, where others have one
        return named > self._settings.approval_share * snapshot.records()


def _owned(principal: Principal, scope: Scope, snapshot: Snapshot) -> None:
    """Refuse nodes that are not the principal's; an operator may name all that are registered."""
    if principal.role == "operator":
        foreign = _first(node for node in scope.nodes if node not in snapshot.owners)
        wish = "is nobody's; register its owner's key first"
    else:
        if scope.kind is ScopeKind.CLASS and not scope.nodes:
            raise ServiceRefusal(
                Reason.OPERATOR_ONLY,
                "only an operator may have a class removed from all nodes; name your nodes",
            )
        foreign = _first(node for node in scope.nodes if node not in principal.nodes)
        wish = f"is not one of {principal.name}'s"
    if foreign is not None:
        raise ServiceRefusal(
            Reason.NOT_YOUR_NODE, f"node {foreign} {wish}", metadata={"node": foreign}
        )


def _there(scope: Scope, snapshot: Snapshot) -> None:
    gone = _first(node for node in scope.nodes if node in snapshot.left)
    if gone is not None:
        raise ServiceRefusal(
            Reason.NODE_LEFT,
            f"node {gone} has left; all that it held is removed already",
            metadata={"node": gone},
        )


def _known(scope: Scope, snapshot: Snapshot) -> None:
    """Refuse a class that the data do not have, where it is known which they have."""
    unknown = _first(label for label in scope.labels if label not in snapshot.classes)
    if unknown is not None and snapshot.classes:
        names = Names("class", snapshot.classes)
        raise ServiceRefusal(
            Reason.CLASS_UNKNOWN,
            f"class {names.said(unknown)} does not exist; {names.listed}",
            metadata={"class": unknown},
        )


def _committed(records: pb.RecordScope, snapshot: Snapshot) -> None:
    commitment = snapshot.commitments.get(records.node)
    if commitment is None:
        raise ServiceRefusal(
            Reason.NODE_NOT_COMMITTED,
            f"node {records.node} has registered no commitment to its records; register one, or "
            "ask for the removal of the whole node",
            metadata={"node": records.node},
        )
    for record in records.records:
        try:
            verify_record(commitment, record.index, record.commitment, record.path)
        except VerificationError:
            raise ServiceRefusal(
                Reason.RECORD_NOT_COMMITTED,
                f"record {record.index} is not one that node {records.node} committed to; take "
                "commitment and path from the commitments made at enrolment",
                metadata={"node": records.node},
            ) from None


def _first(names: Iterable[str]) -> str | None:
    return next(iter(names), None)
