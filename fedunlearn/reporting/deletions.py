"""The report's account of deletion requests: what happened when, and what the receipt says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Deletion = Mapping[str, Any]

WORDS = {
    "PENDING": "released to the worker",
    "COLLECTING": "leased by the worker; nodes and base model are collected",
    "SOLVING": "the nodes answer, the server solves",
    "VERIFYING": "the new model is held against the gates",
    "COMMITTING": "the model is swapped and logged",
    "SUCCEEDED": "nodes have confirmed, the receipt is issued",
    "FAILED": "failed",
    "REJECTED": "rejected",
    "CANCELLED": "cancelled",
}
# Named by the receipt, in this order.
PREDICATE = {
    "owner": "asked by",
    "verified": "verified by",
    "method": "method",
    "claim": "claim",
    "rounds": "rounds",
    "bytes_up": "bytes from nodes",
    "bytes_down": "bytes to nodes",
    "removed_together": "requests removed in this step",
    "issuer": "issuer's key",
}
FILED = {
    "PENDING": "filed, signature checked",
    "AWAITING_APPROVAL": "filed, signature checked; waits for the operator's approval",
}
SHORT = 16


@dataclass(frozen=True)
class Moment:
    """One point of a timeline.

    Attributes:
        seconds: Since the request was filed, as text.
        share: Of the way from filing to the end, in percent.
        what: Happened.
        actor: Who did it.
        reason: Where one was given.
    """

    seconds: str
    share: float
    what: str
    actor: str
    reason: str


def view(deletion: Deletion, key: str) -> dict[str, Any]:
    """Return what the template shows of a request.

    Args:
        deletion: As in results.json.
        key: Of this request within the page.

    Returns:
        Values for ``deletions.html.j2``.
    """
    receipt = deletion.get("receipt")
    predicate = receipt["predicate"] if receipt else None
    return {
        "key": key,
        "heading": f"{deletion['owner']} asks: forget {deletion['description']}",
        "lead": _lead(deletion),
        "timeline": _timeline(deletion["events"]),
        "models": _models(deletion),
        "receipt": _receipt(predicate) if predicate else None,
        "checks": _checks(predicate) if predicate else [],
        "checkpoints": predicate["checkpoints"] if predicate else [],
        "out_of_use": predicate["out_of_use"] if predicate else "",
        "file": receipt["file"] if receipt else "",
    }


def _lead(deletion: Deletion) -> str:
    first, last = (_time(deletion["events"][place]["time"]) for place in (0, -1))
    took = f"{(last - first).total_seconds():.1f} s"
    text = (
        f"{deletion['owner']} filed a signed request over gRPC; it was due on "
        f"{_time(deletion['due']):%Y-%m-%d}. "
    )
    if deletion["state"] != "SUCCEEDED":
        return text + f"After {took} it is {deletion['state']}: {deletion['reason']}."
    text += f"{took} later the model was swapped and the receipt issued. "
    if deletion["receipt"]["verified"]:
        text += "The receipt verifies with the issuer's public key alone. "
    same = deletion.get("same_as_comparison")
    if same is True:
        text += "The new model is, to the last bit, the one that the comparison below measures."
    elif same is False:
        text += "The new model is not bit for bit the one that the comparison below measures."
    return text


def _timeline(events: Sequence[Mapping[str, Any]]) -> list[Moment]:
    start, end = (_time(events[place]["time"]) for place in (0, -1))
    whole = max((end - start).total_seconds(), 1e-9)
    moments: list[Moment] = []
    for event in events:
        since = (_time(event["time"]) - start).total_seconds()
        words = WORDS if moments else FILED
        what = words.get(event["stage"] or event["state"], event["state"])
        moments.append(
            Moment(
                f"{since:.2f} s",
                round(100.0 * since / whole, 2),
                what,
                event["actor"],
                event["reason"],
            )
        )
    return moments


def _models(deletion: Deletion) -> dict[str, str]:
    named = {"before": deletion.get("model_before"), "after": deletion.get("model_after")}
    return {name: digest for name, digest in named.items() if digest}


def _receipt(predicate: Mapping[str, Any]) -> dict[str, str]:
    scope, log = predicate["scope"], predicate["log"]
    facts = {"scope": f"{scope['count']} {_kind(scope['kind'], scope['count'])}"}
    for key in ("classes", "nodes"):  # records have no names
        if names := scope.get(key):
            facts[key] = ", ".join(names)
    facts |= {words: _said(predicate[key]) for key, words in PREDICATE.items()}
    cohort = predicate["cohort"]
    facts["nodes in the cohort"] = str(len(cohort["nodes"]))
    facts["nodes missing"] = str(len(cohort["missing"]))
    facts["signed statement"] = _short(predicate["statement_sha256"])
    facts["place in the log"] = f"row {log['index']} of {log['size']}"
    facts["root of the log"] = _short(log["root"])
    return facts


def _checks(predicate: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "name": check["name"].replace("_", " "),
            "meaning": check["meaning"],
            "value": _number(check["value"]),
            "threshold": _number(check["threshold"]),
            "passed": "yes" if check["passed"] else "no",
        }
        for check in predicate["checks"]
    ]


def _kind(kind: str, count: int) -> str:
    one = {"node": "node", "records": "record", "class": "class"}[kind]
    return one if count == 1 else {"class": "classes"}.get(one, f"{one}s")


def _said(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return _short(text) if len(text) == 64 and text.isalnum() else text


def _short(digest: str) -> str:
    return f"{digest[:SHORT]}…"


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else str(value)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
