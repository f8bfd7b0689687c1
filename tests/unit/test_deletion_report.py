"""The report shows the outcome of a deletion request, and the facts of its receipt."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import fedunlearn.reporting
from fedunlearn.reporting.deletion_view import view
from fedunlearn.reporting.results import DeletionResults

STYLE = Path(fedunlearn.reporting.__file__).with_name("templates") / "style.css.j2"


def deletion(**changes: Any) -> DeletionResults:
    events = [
        ("2026-11-25T10:00:00+00:00", "AWAITING_APPROVAL", None, "owner clinic", ""),
        ("2026-11-25T10:00:01+00:00", "PENDING", None, "operator ward", ""),
        ("2026-11-25T10:00:02+00:00", "RUNNING", "SOLVING", "worker w", ""),
        ("2026-11-25T10:00:04+00:00", "SUCCEEDED", None, "worker w", ""),
    ]
    keys = ("time", "state", "stage", "actor", "reason")
    entry: dict[str, Any] = {
        "id": "1",
        "request_id": "2",
        "owner": "clinic",
        "description": "node 3",
        "state": "SUCCEEDED",
        "reason": "",
        "due": "2026-12-25T10:00:00+00:00",
        "events": [dict(zip(keys, event, strict=True)) for event in events],
        "model_before": "b" * 64,
        "model_after": "a" * 64,
        "same_as_comparison": True,
        "receipt": {
            "file": "receipt.json",
            "verified": True,
            "predicate": predicate(),
            "envelope": "{}",
        },
    }
    return DeletionResults.model_validate_json(json.dumps(entry | changes))


def predicate() -> dict[str, Any]:
    return {
        "owner": "clinic",
        "verified": "signature",
        "method": "cubic-newton",
        "claim": "EMPIRICAL",
        "rounds": 14,
        "bytes_up": 1_092_990,
        "bytes_down": 2,
        "removed_together": 1,
        "issuer": "c" * 64,
        "scope": {"kind": "records", "count": 2},
        "cohort": {"nodes": [0, 1], "missing": [2]},
        "statement_sha256": "d" * 64,
        "log": {"index": 4, "size": 5, "root": "e" * 64},
        "checks": [
            {
                "name": "retain_loss_rise",
                "meaning": "m",
                "value": 0.5,
                "threshold": 0.1,
                "passed": 0,
            }
        ],
        "checkpoints": [{"sha256": "b" * 64, "fate": "deleted"}],
        "out_of_use": "the server refuses the node from now on",
    }


def test_a_timeline_has_every_event_where_it_belongs() -> None:
    shown = view(deletion(), "d1")
    assert [(moment.seconds, moment.share) for moment in shown.timeline] == [
        ("0.00 s", 0.0),
        ("1.00 s", 25.0),
        ("2.00 s", 50.0),
        ("4.00 s", 100.0),
    ]
    assert [moment.actor.split()[0] for moment in shown.timeline] == [
        *("owner", "operator", "worker", "worker")
    ]
    assert "awaits the operator" in shown.timeline[0].what
    assert shown.timeline[1].what == "released to the worker"


def test_the_lead_says_how_the_request_ended() -> None:
    lead = view(deletion(), "d1").lead
    assert "4.0 s later the model was swapped" in lead
    assert "bit for bit the one" in lead
    failed = deletion(state="FAILED", reason="a gate", receipt=None)
    assert "it is FAILED: a gate" in view(failed, "d1").lead
    assert view(failed, "d1").receipt == {}


def test_the_receipt_is_shown_as_it_is() -> None:
    shown = view(deletion(), "d1")
    assert shown.receipt["scope"] == "2 records"
    assert shown.receipt["bytes from nodes"] == "1,092,990"
    assert shown.receipt["place in the log"] == "row 4 of 5"
    assert shown.receipt["nodes missing"] == "1"
    assert shown.checks[0].passed == "no"
    assert shown.models == {"before": "b" * 64, "after": "a" * 64}


def test_a_long_fact_does_not_run_out_of_a_narrow_page() -> None:
    (rule,) = re.findall(r"^\.facts dd \{(.*)\}$", STYLE.read_text(encoding="utf-8"), re.MULTILINE)
    assert "overflow-wrap: anywhere" in rule and "nowrap" not in rule
