"""What the log, and so the receipt, says of a removal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from fedunlearn.requests.deletion import Deletion, Scope
from fedunlearn.worker.gates import Check
from fedunlearn.worker.removal import Removed
from fedunlearn.worker.retention import Fate

VERIFIED = "signature of the owner's registered key over the statement"


def removal_entry(
    deletion: Deletion,
    removed: Removed,
    *,
    model: str,
    base: str,
    checks: Sequence[Check],
    checkpoints: Sequence[Fate],
    together: int,
    version: str,
    issuer: str,
    now: datetime,
) -> dict[str, object]:
    """Return the entry of one request: no gradient, product or example, and no id of a record.

    Args:
        deletion: The request.
        removed: What was done.
        model: sha256 of the model file after.
        base: Likewise before.
        checks: The gates.
        checkpoints: What becomes of the models before.
        together: How many requests were removed in this step.
        version: Of this package.
        issuer: Id of the key that signs.
        now: When the model is swapped.

    Returns:
        JSON-able; the store adds the kind of the entry.
    """
    return {
        "deletion": deletion.id,
        "request_id": deletion.request_id,
        "statement_sha256": deletion.statement_sha256,
        "owner": deletion.owner,
        "key_id": deletion.key_id,
        "verified": VERIFIED,
        "scope": {
            "kind": deletion.scope.kind.value,
            "count": deletion.scope.count,
            "sha256": deletion.scope_sha256,
        },
        "received": _time(deletion.created),
        "due": _time(deletion.due),
        "completed": _time(now),
        "model_before": base,
        "model_after": model,
        "method": removed.method,
        "settings": dict(removed.settings),
        "status": removed.status,
        "claim": removed.claim,
        "code": {"fedunlearn": version},
        "cohort": {"nodes": list(removed.nodes), "missing": list(removed.missing)},
        "removed_together": together,
        "rounds": removed.rounds,
        "bytes_up": removed.bytes_up,
        "bytes_down": removed.bytes_down,
        "checks": [check.as_dict() for check in checks],
        "checkpoints": [fate.as_dict() for fate in checkpoints],
        "tombstones": _tombstones(deletion.scope),
        "issuer": issuer,
    }


def _tombstones(scope: Scope) -> str:
    who = "nodes " + ", ".join(map(str, scope.nodes)) if scope.nodes else "all nodes"
    return (
        f"on {who}: what was removed is on the node's durable list and takes part in nothing any "
        "more; confirmed before this receipt was issued"
    )


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")
