"""The demonstration: methods compared on the data, then the removal as an owner would have it.

The comparison comes first, for it needs the data that leave: after the removal the nodes do not use
them any more, for anything.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedunlearn.federation.federation import Federation
from fedunlearn.flower.simulation import TransportName, simulate
from fedunlearn.lab.deletion_requests import Asking, asking
from fedunlearn.lab.experiment import Experiment
from fedunlearn.lab.runner import Outcome, Ran, document, run_in
from fedunlearn.named_errors import errors_by_name
from fedunlearn.operator.model_store import require_keepable
from fedunlearn.operator.worker_loop import NODES
from fedunlearn.progress import Progress
from fedunlearn.requests.deletion import State
from fedunlearn.scenario.loading import LoadedScenario


@dataclass(frozen=True)
class Demonstrated:
    """What a demonstration gave.

    Attributes:
        outcome: Results, with the requests under "deletions", and evidence.
        files: By name, what is put beside the report.
        failure: Why a request did not succeed; empty where all did.
    """

    outcome: Outcome
    files: Mapping[str, str]
    failure: str


def demonstrate(
    loaded: LoadedScenario, *, transport: TransportName, progress: Progress
) -> Demonstrated:
    """Compare a scenario's methods, then let owners ask for the removal, through the service.

    Args:
        loaded: The scenario; its first method is the one by which the service removes.
        transport: ``inline`` or ``flower``.
        progress: Hears of training, rounds and oracles.

    Returns:
        Results, receipts, the ledger.

    Raises:
        InputError: The scenario cannot be run, or not through the service.
        FederationError: A round could not be completed.
    """
    experiment = Experiment.prepare(loaded)
    require_keepable(next(iter(experiment.methods.values())))
    folder = Path(tempfile.mkdtemp(prefix="fedunlearn-demo-"))

    def body(federation: Federation) -> tuple[Ran, list[dict[str, Any]], dict[str, str]]:
        ran = run_in(experiment, federation)
        with (
            progress.piece("requests through the service", len(experiment.requests)),
            asking(experiment, federation, ran.trained, folder) as service,
        ):
            deletions = _ask_all(experiment, service, ran)
            return ran, deletions, service.files(deletions)

    names = experiment.task.split.node_names
    try:
        with errors_by_name(names):
            ran, deletions, files = simulate(
                experiment.task,
                len(names),
                body,
                transport=transport,
                progress=progress,
                records=folder / NODES,
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    results = document(experiment, ran.requests, transport)
    results["deletions"] = deletions
    failed = (one for one in deletions if one["state"] != State.SUCCEEDED)
    failure = "; ".join(f"{one['description']}: {one['state']}, {one['reason']}" for one in failed)
    return Demonstrated(Outcome(results, tuple(ran.evidence)), files, failure)


def _ask_all(experiment: Experiment, service: Asking, ran: Ran) -> list[dict[str, Any]]:
    deletions: list[dict[str, Any]] = []
    first = ran.removals[next(iter(experiment.methods))]
    for forget, removal in zip(experiment.requests, first, strict=True):
        of_request = service.ask(forget)
        same = service.current == service.sha256_of(removal.weights)
        deletions += [deletion | {"same_as_comparison": same} for deletion in of_request]
    return deletions
