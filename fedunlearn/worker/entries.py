"""The entry of a removal in the log, which is also the content of its receipt."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from fedunlearn.requests.deletion import Deletion, Scope, ScopeKind
from fedunlearn.worker.gates import Check
from fedunlearn.worker.removal_job import Removed
from fedunlearn.worker.retention import Fate

VERIFIED = "signature of the owner's registered key over the statement"


def removal_entry(
    deletion: Deletion,
    removed: Removed,
    *,
    checks: Sequence[Check],
    checkpoints: Sequence[Fate],
    together: int,
    version: str,
    issuer: str,
    now: datetime,
) -> dict[str, object]:
    """Return the log entry of one request, without gradients, products, examples or record ids.

    Args:
        deletion: The request.
        removed: Result of the removal.
        checks: Results of the gates.
        checkpoints: Retention or deletion of the earlier models.
        together: Number of requests that were removed in this step.
        version: Version of this package.
        issuer: Id of the issuer's key.
        now: Time of the swap of the model.

    Returns:
        The entry in JSON types; the store adds kind, request, models and time.
    """
    return {
        "request_id": deletion.request_id,
        "statement_sha256": deletion.statement_sha256,
        "owner": deletion.owner,
        "key_id": deletion.key_id,
        "verified": VERIFIED,
        "scope": _scope(deletion),
        "received": _time(deletion.created),
        "due": _time(deletion.due),
        "completed": _time(now),
        "method": removed.method,
        "settings": dict(removed.settings),
        "status": removed.status,
        "claim": removed.claim,
        "code": {"fedunlearn": version},
        **({"network": removed.network} if removed.network else {}),
        **({"statistics": removed.statistics} if removed.statistics else {}),
        **({} if removed.uses_kept is None else {"kept": dict(removed.uses_kept)}),
        "cohort": {"nodes": list(removed.nodes), "missing": list(removed.missing)},
        "removed_together": together,
        "rounds": removed.rounds,
        "bytes_up": removed.bytes_up,
        "bytes_down": removed.bytes_down,
        "checks": [check.as_dict() for check in checks],
        "checkpoints": [fate.as_dict() for fate in checkpoints],
        "out_of_use": _out_of_use(deletion.scope),
        "issuer": issuer,
    }


def _scope(deletion: Deletion) -> dict[str, object]:
    """Return the removed scope: nodes and classes by name, records only by their number."""
    scope = deletion.scope
    return {
        "kind": scope.kind.value,
        "count": scope.count,
        "nodes": list(scope.nodes),
        "classes": list(scope.labels),
        "sha256": deletion.scope_sha256,
    }


def _out_of_use(scope: Scope) -> str:
    """Return a description of how the removed data are excluded from now on."""
    if scope.kind is ScopeKind.NODE:
        return "the server refuses the node from now on"
    return "every node with such data has recorded tombstones and does not use the data any more"


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")
