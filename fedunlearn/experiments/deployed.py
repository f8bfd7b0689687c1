"""A scenario from start to end on a deployment: the results, and the report, as files."""

from __future__ import annotations

from pathlib import Path

from fedunlearn.evaluation.report import render_report
from fedunlearn.evaluation.results import to_json
from fedunlearn.experiments.experiment import Experiment
from fedunlearn.experiments.runner import document, run_in
from fedunlearn.files import write_whole
from fedunlearn.flower.deployed_apps import Open
from fedunlearn.flower.sessions import SessionOrMessages
from fedunlearn.parameters import ParameterLayout
from fedunlearn.scenario.loading import LoadedScenario


def run_deployed(loaded: LoadedScenario, open_federation: Open, out: Path) -> None:
    """Train, unlearn, retrain, compare; write ``results.json`` and ``report.html`` into ``out``."""
    experiment = Experiment.prepare(loaded)
    layout = ParameterLayout.of(experiment.task.model())
    with open_federation(len(experiment.task.split.nodes), layout) as federation:
        ran = run_in(experiment, federation)
        transport = federation.transport
    assert isinstance(transport, SessionOrMessages)
    results = document(experiment, ran.requests, transport.carrier)
    results["environment"]["session_join_seconds"] = transport.joining_s
    # The results last: whoever waits for them finds all.
    write_whole(out / "report.html", render_report(results, tuple(ran.evidence)))
    write_whole(out / "results.json", to_json(results))
