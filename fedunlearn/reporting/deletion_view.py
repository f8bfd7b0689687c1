"""What the report shows of a deletion request: its timeline, and the facts of its receipt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from fedunlearn.reporting.results import DeletionEvent, DeletionResults

STAGES = {
    "PENDING": "released to the worker",
    "COLLECTING": "leased by the worker; nodes and base model are collected",
    "SOLVING": "the nodes answer, the server solves",
    "VERIFYING": "the gates check the new model",
    "COMMITTING": "the model is swapped and logged",
    "SUCCEEDED": "nodes have confirmed, the receipt is issued",
    "FAILED": "failed",
    "REJECTED": "rejected",
    "CANCELLED": "cancelled",
}
FILED = {
    "PENDING": "filed, signature checked",
    "AWAITING_APPROVAL": "filed, signature checked; awaits the operator's approval",
}
KINDS = {
    "node": ("node", "nodes"),
    "records": ("record", "records"),
    "class": ("class", "classes"),
}
SHORT = 16


class _Part(BaseModel):
    """Part of a receipt's predicate: of what the issuer signed, the keys that the report shows."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Scope(_Part):
    kind: str
    count: int
    classes: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


class _Cohort(_Part):
    nodes: tuple[int | str, ...]
    missing: tuple[int | str, ...]


class _Log(_Part):
    index: int
    size: int
    root: str


class _Gate(_Part):
    name: str
    meaning: str
    value: float | str
    threshold: float | str
    passed: bool


class Checkpoint(_Part):
    """An old model file and its fate."""

    sha256: str
    fate: str


class _Predicate(_Part):
    owner: str
    verified: str
    method: str
    claim: str
    rounds: int
    bytes_up: int
    bytes_down: int
    removed_together: int
    issuer: str
    scope: _Scope
    cohort: _Cohort
    statement_sha256: str
    log: _Log
    checks: tuple[_Gate, ...]
    checkpoints: tuple[Checkpoint, ...]
    out_of_use: str


@dataclass(frozen=True)
class Moment:
    """One point of a timeline.

    Attributes:
        seconds: Time since the request was filed, as text.
        share: Share of the time from filing to the end, in percent.
        what: The event.
        actor: Who caused it.
        reason: The reason, where one was given.
    """

    seconds: str
    share: float
    what: str
    actor: str
    reason: str


@dataclass(frozen=True)
class Gate:
    """One row of the table of gates, as text."""

    name: str
    meaning: str
    value: str
    threshold: str
    passed: str


@dataclass(frozen=True)
class DeletionView:
    """What ``deletions.html.j2`` shows of a request.

    Attributes:
        key: Name of the request within the page.
        heading: The heading.
        lead: The first paragraph.
        timeline: The events in order.
        models: SHA-256 of the model before and after.
        receipt: Facts of the receipt; empty where there is none.
        checks: The gates.
        checkpoints: The old model files.
        out_of_use: What the receipt says of the removed data.
        file: Name of the receipt's file.
    """

    key: str
    heading: str
    lead: str
    timeline: Sequence[Moment]
    models: Mapping[str, str]
    receipt: Mapping[str, str]
    checks: Sequence[Gate]
    checkpoints: Sequence[Checkpoint]
    out_of_use: str
    file: str


def view(deletion: DeletionResults, key: str) -> DeletionView:
    """Return what the report shows of a request.

    Args:
        deletion: The request and its outcome.
        key: Name of the request within the page.

    Returns:
        Texts for the template.
    """
    receipt = deletion.receipt
    predicate = _Predicate.model_validate(receipt.predicate) if receipt else None
    models = {"before": deletion.model_before, "after": deletion.model_after}
    return DeletionView(
        key=key,
        heading=f"Request of {deletion.owner}: forget {deletion.description}",
        lead=_lead(deletion),
        timeline=_timeline(deletion.events),
        models={name: digest for name, digest in models.items() if digest},
        receipt=_facts(predicate) if predicate else {},
        checks=[_gate(check) for check in predicate.checks] if predicate else [],
        checkpoints=predicate.checkpoints if predicate else (),
        out_of_use=predicate.out_of_use if predicate else "",
        file=receipt.file if receipt else "",
    )


def seconds_taken(deletion: DeletionResults) -> float:
    """Return the time from filing a request to its last event."""
    first, last = (_time(deletion.events[place].time) for place in (0, -1))
    return (last - first).total_seconds()


def _lead(deletion: DeletionResults) -> str:
    took = f"{seconds_taken(deletion):.1f} s"
    text = (
        f"{deletion.owner} filed a signed request over gRPC; it was due on "
        f"{_time(deletion.due):%Y-%m-%d}. "
    )
    if deletion.state != "SUCCEEDED":
        return text + f"After {took} it is {deletion.state}: {deletion.reason}."
    text += f"{took} later the model was swapped and the receipt issued. "
    if deletion.receipt and deletion.receipt.verified:
        text += "The receipt verifies with the issuer's public key alone. "
    if deletion.same_as_comparison is True:
        text += "The new model is bit for bit the one that the comparison below measures."
    elif deletion.same_as_comparison is False:
        text += "The new model is not bit for bit the one that the comparison below measures."
    return text


def _timeline(events: Sequence[DeletionEvent]) -> list[Moment]:
    start, end = (_time(events[place].time) for place in (0, -1))
    whole = max((end - start).total_seconds(), 1e-9)
    moments: list[Moment] = []
    for event in events:
        since = (_time(event.time) - start).total_seconds()
        texts = STAGES if moments else FILED
        moments.append(
            Moment(
                seconds=f"{since:.2f} s",
                share=round(100.0 * since / whole, 2),
                what=texts.get(event.stage or event.state, event.state),
                actor=event.actor,
                reason=event.reason,
            )
        )
    return moments


def _facts(predicate: _Predicate) -> dict[str, str]:
    scope, log, cohort = predicate.scope, predicate.log, predicate.cohort
    one, several = KINDS[scope.kind]
    names = {"classes": ", ".join(scope.classes), "nodes": ", ".join(scope.nodes)}
    return {
        "scope": f"{scope.count} {one if scope.count == 1 else several}",
        **{key: text for key, text in names.items() if text},  # records have no names
        "requested by": predicate.owner,
        "verified by": predicate.verified,
        "method": predicate.method,
        "claim": predicate.claim,
        "rounds": f"{predicate.rounds:,}",
        "bytes from nodes": f"{predicate.bytes_up:,}",
        "bytes to nodes": f"{predicate.bytes_down:,}",
        "requests removed in this step": f"{predicate.removed_together:,}",
        "issuer's key": _short(predicate.issuer),
        "nodes in the cohort": str(len(cohort.nodes)),
        "nodes missing": str(len(cohort.missing)),
        "signed statement": _short(predicate.statement_sha256),
        "place in the log": f"row {log.index} of {log.size}",
        "root of the log": _short(log.root),
    }


def _gate(check: _Gate) -> Gate:
    return Gate(
        name=check.name.replace("_", " "),
        meaning=check.meaning,
        value=_number(check.value),
        threshold=_number(check.threshold),
        passed="yes" if check.passed else "no",
    )


def _short(digest: str) -> str:
    return f"{digest[:SHORT]}…"


def _number(value: float | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else value


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
