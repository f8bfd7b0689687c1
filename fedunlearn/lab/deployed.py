"""A scenario on a deployment: methods compared, then the requests of the deletion service."""

from __future__ import annotations

import threading
from pathlib import Path

from torch import nn

from fedunlearn.errors import ScenarioError
from fedunlearn.federation.federation import Federation
from fedunlearn.files import write_whole
from fedunlearn.flower.deployed_apps import Open, Places
from fedunlearn.flower.sessions import SessionOrMessages
from fedunlearn.lab.experiment import Experiment
from fedunlearn.lab.runner import Ran, document, run_in
from fedunlearn.lab.site import site_of
from fedunlearn.named_errors import errors_by_name
from fedunlearn.networks import build_model
from fedunlearn.operator.worker_loop import WorkPlace, work_in
from fedunlearn.reporting.report import render_report
from fedunlearn.reporting.results import to_json
from fedunlearn.scenario.loading import LoadedScenario
from fedunlearn.service.state import open_state

WORKER = "flower"


def run_deployed(loaded: LoadedScenario, open_federation: Open, places: Places) -> None:
    """Compare methods, write ``results.json`` and ``report.html``; then remove what is asked.

    Args:
        loaded: The scenario.
        open_federation: Opens the nodes.
        places: Which of the two, and where.

    Raises:
        ScenarioError: Neither is wanted.
    """
    experiment = Experiment.prepare(loaded)
    if places.state is None:
        if not places.compare:
            raise ScenarioError("compare: is false and there is no state folder; nothing to do")
        with (
            errors_by_name(experiment.task.split.node_names),
            open_federation(*_nodes(experiment)) as federation,
        ):
            _compare(experiment, federation, places.out)
        return
    with open_state(places.state, create=False) as state:
        place = WorkPlace(
            folder=places.state,
            store=state.store,
            issuer=state.issuer,
            name=WORKER,
            idle_s=places.idle_s,
            stop=threading.Event(),
            on_job=lambda worked: None,
        )
        nodes, model = _nodes(experiment)
        names = experiment.task.split.node_names
        left = [names.place(name) for name in place.refused]
        with (
            errors_by_name(names),
            open_federation(nodes - len(left), model, refused=left) as federation,
        ):
            ran = _compare(experiment, federation, places.out) if places.compare else None
            work_in(site_of(experiment), federation, place, ran.trained if ran else None)


def _nodes(experiment: Experiment) -> tuple[int, nn.Module]:
    return len(experiment.task.split.nodes), build_model(experiment.task.model)


def _compare(experiment: Experiment, federation: Federation, out: Path) -> Ran:
    ran = run_in(experiment, federation)
    transport = federation.transport
    assert isinstance(transport, SessionOrMessages)
    results = document(experiment, ran.requests, transport.carrier)
    results["environment"]["session_join_seconds"] = transport.joining_s
    # The results last: whoever waits for them finds all.
    write_whole(out / "report.html", render_report(results, tuple(ran.evidence)))
    write_whole(out / "results.json", to_json(results))
    return ran
