"""Requests name nodes and classes as the data do: what is named is what is removed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedunlearn.commitments import Commitments
from fedunlearn.data.sources import load_split
from fedunlearn.node.records import COMMITMENTS
from fedunlearn.operator.worker_loop import NAMES, NODES
from fedunlearn.requests.deletion import State
from fedunlearn.requests.receipts import verify_receipt
from fedunlearn.requests.statement import class_scope, node_scope, record_scope
from fedunlearn.rpc.v1 import deletion_pb2 as pb
from fedunlearn.scenario.loading import LoadedScenario, parse_scenario
from fedunlearn.service.state import ServiceState, open_state
from tests import workplaces
from tests.workplaces import FEDERATION, OPEN_GATES, add_key, file, work

SITES = ["007", "7", "Nord, Süd"]  # in the order of their numbers
KINDS = ["$5 & <b>", "1_11", "zwölf"]


def loaded(path: Path) -> LoadedScenario:
    rows = [
        f'{row % 9},{row % 5 + 3 * (row % 3)},"{KINDS[row % 3]}","{SITES[row % 7 % 3]}"'
        for row in range(240)
    ]
    path.write_text("x,y,kind,site\n" + "\n".join(rows) + "\n", encoding="utf-8")
    table: dict[str, Any] = {
        "data": {"name": "csv", "path": str(path), "label": "kind", "words": ["kind"]}
        | {"partition": "natural", "by": "site"},
        "model": {"name": "logistic"},
        "training": {"rounds": 4, "local-epochs": 1},
        "unlearning": {"methods": ["cubic-newton"], "cubic-newton": {"products": 3}},
    }
    return LoadedScenario(FEDERATION, path.parent, parse_scenario(table))


@pytest.fixture
def prepared(tmp_path: Path) -> LoadedScenario:
    found = loaded(tmp_path / "named.csv")
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "worker.toml").write_text(OPEN_GATES)
    with open_state(folder) as state:
        work(state, found)
        add_key(state, "operator", "operator", ())
        for number, site in enumerate(SITES):
            add_key(state, f"owner-{number}", "owner", (site,))
    return found


def scope_of(kind: str, folder: Path) -> tuple[pb.Scope, int]:
    """Return a scope, and the number of the node whose owner asks for it."""
    if kind == "node":
        return node_scope(["7"]), 1
    if kind == "class":
        return class_scope(["1_11"], ["Nord, Süd"]), 2
    commitments = Commitments.load(folder / NODES / "node-0" / COMMITMENTS)
    return record_scope("007", commitments, [1, 4]), 0


@pytest.mark.parametrize("kind", ["node", "class", "records"])
def test_what_is_named_is_removed_and_said(
    kind: str, prepared: LoadedScenario, tmp_path: Path
) -> None:
    split = load_split(prepared.settings.data)
    with open_state(tmp_path / "state") as state:
        scope, owner = scope_of(kind, tmp_path / "state")
        filed = file(state, scope, owner)
        (worked,) = work(state, prepared)
        assert worked.state is State.SUCCEEDED, worked.reason
        predicate = receipt_of(state, filed.id)
    named = predicate["scope"]
    expected = {
        "node": (["7"], [], "node 7"),
        "class": (["Nord, Süd"], ["1_11"], "class 1_11 of node Nord, Süd"),
        "records": (["007"], [], "2 records of node 007"),
    }[kind]
    assert (named["nodes"], named["classes"], str(filed.scope)) == expected
    names = json.loads((tmp_path / "state" / NAMES).read_text(encoding="utf-8"))
    assert names == {"nodes": SITES, "classes": sorted(KINDS)}
    assert split.node_names.texts == tuple(SITES)
    # The nodes' own lists: exactly the examples that were named, on the node that was named.
    removed = {}
    for number, site in enumerate(SITES):
        path = tmp_path / "state" / NODES / f"node-{number}" / "tombstones.json"
        if path.exists():
            listed = json.loads(path.read_text())
            removed[site] = [place for places in listed["removed"].values() for place in places]
            assert bool(listed["left"]) == (kind == "node")
    targets = split.targets[split.nodes[2]]
    of_class = (targets == split.labels.place("1_11")).nonzero()[:, 0].tolist()
    assert (
        removed
        == {
            "node": {"7": []},
            "class": {"Nord, Süd": of_class},
            "records": {"007": [1, 4]},
        }[kind]
    )


def receipt_of(state: ServiceState, id: str) -> Any:
    text = state.store.receipt(id)
    assert text is not None
    return verify_receipt(text, state.issuer.public).predicate


def test_a_name_that_the_data_do_not_have_fails_with_those_it_has(
    prepared: LoadedScenario, tmp_path: Path
) -> None:
    with open_state(tmp_path / "state") as state:
        assert state.store.classes() == tuple(sorted(KINDS))
        file(state, class_scope(["111"], ["7"]), 1)
        (worked,) = work(state, prepared)
        assert worked.state is State.FAILED
        assert worked.reason.startswith("class 111 does not exist; classes are ")
        assert workplaces.findings(state) == []
