"""The demonstration: a comparison of methods, then the same removal through the deletion service.

The comparison comes first because it needs the data that leave: after the removal the nodes never
use them again.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fedunlearn.federation.federation import Federation
from fedunlearn.flower.simulation import TransportName, simulate
from fedunlearn.lab.demonstration_service import DemonstrationService, demonstration_service
from fedunlearn.lab.experiment import Experiment
from fedunlearn.lab.measuring import Measured
from fedunlearn.lab.run import Run, run_in
from fedunlearn.named_errors import errors_by_name
from fedunlearn.operator.model_store import require_keepable
from fedunlearn.operator.worker_loop import NODES
from fedunlearn.progress import Progress
from fedunlearn.reporting.results import DeletionResults
from fedunlearn.requests.deletion import State
from fedunlearn.scenario.loading import LoadedScenario


@dataclass(frozen=True)
class Demonstrated:
    """The outcome of a demonstration.

    Attributes:
        measured: Results, with the deletion requests, and predictions.
        files: Texts of the files beside the report, by name.
        failure: Why a request did not succeed; empty where all did.
    """

    measured: Measured
    files: Mapping[str, str]
    failure: str


def demonstrate(
    loaded: LoadedScenario, *, transport: TransportName, progress: Progress
) -> Demonstrated:
    """Compare a scenario's methods, then remove the same data by requests to the deletion service.

    Args:
        loaded: The scenario; the service removes by its first method.
        transport: ``inline`` or ``flower``.
        progress: Receives the progress of training, rounds and retraining.

    Returns:
        Results, receipts, the ledger.

    Raises:
        InputError: The scenario cannot be run, or not through the service.
        FederationError: A round could not be completed.
    """
    experiment = Experiment.prepare(loaded)
    require_keepable(next(iter(experiment.methods.values())))
    folder = Path(tempfile.mkdtemp(prefix="fedunlearn-demo-"))

    def body(federation: Federation) -> tuple[Run, list[DeletionResults], dict[str, str]]:
        run = run_in(loaded, experiment, federation, transport)
        with (
            progress.piece("requests through the service", len(experiment.requests)),
            demonstration_service(experiment, federation, run.trained, folder) as service,
        ):
            deletions = _remove_all(experiment, service, run)
            return run, deletions, service.files(deletions)

    names = experiment.task.split.node_names
    try:
        with errors_by_name(names):
            run, deletions, files = simulate(
                experiment.task,
                len(names),
                body,
                transport=transport,
                progress=progress,
                records=folder / NODES,
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    results = run.measured.results.model_copy(update={"deletions": tuple(deletions)})
    failed = (one for one in deletions if one.state != State.SUCCEEDED)
    failure = "; ".join(f"{one.description}: {one.state}, {one.reason}" for one in failed)
    return Demonstrated(replace(run.measured, results=results), files, failure)


def _remove_all(
    experiment: Experiment, service: DemonstrationService, run: Run
) -> list[DeletionResults]:
    deletions: list[DeletionResults] = []
    for forget, outcome in zip(experiment.requests, run.outcomes, strict=True):
        of_request = service.remove(forget)
        same = service.current == service.sha256_of(outcome.weights)
        deletions += [
            deletion.model_copy(update={"same_as_comparison": same}) for deletion in of_request
        ]
    return deletions
