"""The demonstration: what is compared is what the service then removes, receipts included."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from fedunlearn.errors import NotRecordedError
from fedunlearn.lab.demonstration import Demonstrated, demonstrate
from fedunlearn.progress import Silent
from fedunlearn.reporting.report import render_report
from fedunlearn.requests.keys import PublicKey
from fedunlearn.requests.ledger import verify_export
from fedunlearn.requests.receipts import verify_receipt
from fedunlearn.scenario.loading import LoadedScenario, parse_scenario

KINDS: dict[str, tuple[dict[str, Any], int]] = {
    "one node": ({"kind": "node", "nodes": [1]}, 1),
    "two nodes at once": ({"kind": "node", "nodes": [1, 2]}, 2),
    "one node after the other": ({"kind": "node", "nodes": [2, 0], "sequential": True}, 2),
    "records of every node": ({"kind": "samples", "fraction": 0.1}, 6),
    "records, twice": (
        {"kind": "samples", "fraction": 0.1, "nodes": [3], "count": 2, "sequential": True},
        2,
    ),
    "a class of one node": ({"kind": "class", "class": 3, "nodes": [0]}, 1),
}


def shown(forget: dict[str, Any], **tables: Any) -> Demonstrated:
    table = {
        "data": {"name": "digits", "nodes": 6, "limit": 300, "partition": "iid"},
        "model": {"name": "logistic"},
        "training": {"rounds": 30, "learning-rate": 0.2},
        "forget": forget,
        "unlearning": {"methods": ["cubic-newton"], "cubic-newton": {"products": 5}},
        "evaluation": {"oracles": 1},
    }
    loaded = LoadedScenario("demo", Path.cwd(), parse_scenario(table | tables))
    return demonstrate(loaded, transport="inline", progress=Silent())


@pytest.mark.parametrize("kind", KINDS)
def test_the_service_removes_what_was_compared_and_proves_it(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    forget, requests = KINDS[kind]
    found = shown(forget)
    assert found.failure == ""
    deletions = found.measured.results.deletions or ()
    assert len(deletions) == requests
    key = PublicKey.from_pem(found.files["issuer.pub"])
    for deletion in deletions:
        assert deletion.same_as_comparison is True
        assert deletion.receipt is not None
        receipt = verify_receipt(found.files[deletion.receipt.file], key)
        assert receipt.model == deletion.model_after
        assert deletion.events[0].state == "AWAITING_APPROVAL"
    assert verify_export(json.loads(found.files["ledger.json"]), key) == []
    assert len(found.files) == requests + 2
    page = render_report(found.measured.results, found.measured.predictions)
    assert page.count(">Timeline<") == page.count(">Receipt<") == requests
    assert list(tmp_path.glob("fedunlearn-*")) == []


def test_a_removal_that_a_gate_stops_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedunlearn.worker.worker_settings import Gates, WorkerSettings

    strict = WorkerSettings(gates=Gates(relative_update=1e-9))
    monkeypatch.setattr(WorkerSettings, "read", lambda folder: strict)
    found = shown({"kind": "node", "nodes": [1]})
    assert "node 1: FAILED, the new model fails a gate" in found.failure
    assert set(found.files) == {"issuer.pub", "ledger.json"}
    page = render_report(found.measured.results, found.measured.predictions)
    assert "it is FAILED: the new model fails a gate" in page


def test_a_method_that_a_state_folder_cannot_serve_is_named_before_anything_runs() -> None:
    with pytest.raises(NotRecordedError, match=r"fed-eraser needs .* put a method first"):
        shown({"kind": "node", "nodes": [1]}, unlearning={"methods": ["fed-eraser"]})
