"""Request stores of every kind; a state folder with a trained model, and workers over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedunlearn.federation.federation import Federation
from fedunlearn.flower.simulation import simulate
from fedunlearn.lab.experiment import Experiment
from fedunlearn.operator.worker_loop import MODELS, NODES
from fedunlearn.requests.store import RequestStore
from fedunlearn.service.state import ServiceState, open_state
from fedunlearn.worker.model_folder import ModelFolder
from fedunlearn.worker.worker import Worker
from fedunlearn.worker.worker_settings import WorkerSettings
from tests import workplaces
from tests.deletions import ISSUER, populate
from tests.stores import KINDS, Places
from tests.workplaces import remover_in, scenario


@pytest.fixture(params=KINDS)
def store_url(request: pytest.FixtureRequest, places: Places, tmp_path: Path) -> str:
    return places.empty_url(request.param, tmp_path)


@pytest.fixture
def store(store_url: str) -> Iterator[RequestStore]:
    with RequestStore.open(store_url, issuer=ISSUER, durable=False) as opened:
        populate(opened)
        yield opened


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template") / "state"
    workplaces.prepare(folder)
    return folder


@pytest.fixture
def state(template: Path, tmp_path: Path) -> Iterator[ServiceState]:
    with open_state(workplaces.copied(template, tmp_path / "state")) as opened:
        yield opened


@pytest.fixture
def two_workers(state: ServiceState) -> Iterator[list[Worker]]:
    """Two workers over one store, in one federation, with leases that end when told."""
    workers: list[Worker] = []
    experiment = Experiment.prepare(scenario())
    collected: list[Federation] = []
    simulate(experiment.task, 3, collected.append, records=state.folder / NODES)
    for name in ("a", "b"):
        workers.append(
            Worker(
                state.store,
                ModelFolder(state.folder / MODELS),
                remover_in(experiment, collected[0], state),
                state.issuer,
                version="0",
                name=name,
                settings=WorkerSettings.read(state.folder),
            )
        )
    yield workers
