"""Admission of deletion requests: who may request which removal, and which need approval."""

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
    """Checks deletion requests against a snapshot of the store."""

    def __init__(self, settings: ServiceSettings, authenticator: Authenticator) -> None:
        """Store the settings and the authenticator.

        Args:
            settings: Limits, and the rules for which requests need approval.
            authenticator: Checks who signed a request.
        """
        self._settings = settings
        self._authenticator = authenticator

    def admit(
        self, request: pb.CreateDeletionRequest, snapshot: Snapshot, now: datetime
    ) -> NewDeletion:
        """Check a request as far as that is possible without the stored requests.

        Args:
            request: The request; its fields have been checked.
            snapshot: Snapshot of the store.
            now: The current time.

        Returns:
            The request to store.

        Raises:
            ServiceRefusal: The request cannot be admitted.
        """
        signed = request.statement
        principal, statement = self._authenticator.statement(signed, request.scope, snapshot, now)
        message = parsed_field(pb.Scope, "scope", request.scope)
        scope = scope_of(request.scope)
        if message.WhichOneof("kind") == "records":
            self._check_count(scope)
        _check_ownership(principal, scope, snapshot)
        _check_membership(scope, snapshot)
        _check_classes(scope, snapshot)
        if message.WhichOneof("kind") == "records":
            _check_commitments(message.records, snapshot)
        model = statement.model_sha256.hex()
        if model not in snapshot.lineage:
            raise ServiceRefusal(
                Reason.MODEL_UNKNOWN,
                f"model {model} is neither the current one nor one it descends from; call "
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

    def _check_count(self, scope: Scope) -> None:
        most = self._settings.most_records
        if scope.count > most:
            wish = f"must name at most {most}; put the others into another request"
            refuse_fields([Violation("scope.records.records", wish)])

    def _awaits_approval(self, principal: Principal, scope: Scope, snapshot: Snapshot) -> bool:
        if self._settings.require_approval:
            return True
        if principal.role == "operator":
            return False
        if scope.kind is ScopeKind.RECORDS:
            named = scope.count
        elif all(node in snapshot.commitments for node in scope.nodes):
            named = snapshot.records(scope.nodes)  # for a class, this is an upper bound
        else:
            # The share is unknown: some nodes registered their sizes, but not these.
            return bool(snapshot.commitments)
        return named > self._settings.approval_share * snapshot.records()


def _check_ownership(principal: Principal, scope: Scope, snapshot: Snapshot) -> None:
    """Refuse nodes that are not the principal's; an operator may name every registered node."""
    if principal.role == "operator":
        foreign = _first(node for node in scope.nodes if node not in snapshot.owners)
        wish = "has no registered owner; register its owner's key first"
    else:
        if scope.kind is ScopeKind.CLASS and not scope.nodes:
            raise ServiceRefusal(
                Reason.OPERATOR_ONLY,
                "only an operator may request the removal of a class from all nodes; "
                "name your nodes",
            )
        foreign = _first(node for node in scope.nodes if node not in principal.nodes)
        wish = f"does not belong to {principal.name}"
    if foreign is not None:
        raise ServiceRefusal(
            Reason.NOT_YOUR_NODE, f"node {foreign} {wish}", metadata={"node": foreign}
        )


def _check_membership(scope: Scope, snapshot: Snapshot) -> None:
    """Refuse nodes that have been removed from the federation."""
    gone = _first(node for node in scope.nodes if node in snapshot.left)
    if gone is not None:
        raise ServiceRefusal(
            Reason.NODE_LEFT,
            f"node {gone} has left the federation; all its data are removed already",
            metadata={"node": gone},
        )


def _check_classes(scope: Scope, snapshot: Snapshot) -> None:
    """Refuse a class that the data do not have, if the classes of the data are known."""
    unknown = _first(label for label in scope.labels if label not in snapshot.classes)
    if unknown is not None and snapshot.classes:
        names = Names("class", snapshot.classes)
        raise ServiceRefusal(
            Reason.CLASS_UNKNOWN,
            f"class {names.said(unknown)} does not exist; {names.listed}",
            metadata={"class": unknown},
        )


def _check_commitments(records: pb.RecordScope, snapshot: Snapshot) -> None:
    """Refuse records whose commitments do not belong to the node's registered commitment."""
    commitment = snapshot.commitments.get(records.node)
    if commitment is None:
        raise ServiceRefusal(
            Reason.NODE_NOT_COMMITTED,
            f"node {records.node} has registered no commitment to its records; register one, or "
            "request the removal of the whole node",
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
