"""A method that observes training gives the same model from a stored model as in one run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedunlearn.lab.experiment import prepared
from fedunlearn.lab.federations import NewFederations
from fedunlearn.lab.jobs import Train, Unlearn
from fedunlearn.lab.result_keys import outcomes_key
from fedunlearn.lab.result_store import FolderStore, MemoryStore
from fedunlearn.scenario.loading import LoadedScenario, parse_scenario
from fedunlearn.unlearning.registry import method_names

OBSERVING = sorted({"auto", "fed-eraser"} & set(method_names()))


@pytest.mark.parametrize("name", OBSERVING)
def test_what_observes_training_finds_it_in_either_store(name: str, tmp_path: Path) -> None:
    settings = parse_scenario(
        {
            "data": {"nodes": 4, "limit": 400},
            "training": {"rounds": 8},
            "unlearning": {"methods": [name]},
        }
    )
    loaded = LoadedScenario("x", tmp_path, settings)
    found = []
    for store in (MemoryStore(), FolderStore(tmp_path / "cache")):
        federations = NewFederations()
        Train(loaded, 1).run(store, federations)
        Unlearn(loaded, 1, name, None).run(store, federations)
        outcomes = store.outcomes(outcomes_key(prepared(loaded), 1, name, None))
        assert outcomes is not None
        found.append(outcomes[0])
    assert torch.equal(found[0].weights, found[1].weights)
    assert found[0].status == found[1].status
