"""A worker in the simulated federation of a scenario; it trains the first model if necessary."""

from __future__ import annotations

from fedunlearn.flower.simulation import TransportName, simulate
from fedunlearn.lab.experiment import Experiment
from fedunlearn.lab.site import site_of
from fedunlearn.named_errors import errors_by_name
from fedunlearn.operator.worker_loop import NODES, WorkPlace, work_in
from fedunlearn.progress import Progress
from fedunlearn.scenario.loading import LoadedScenario


def work_simulated(
    loaded: LoadedScenario, place: WorkPlace, *, transport: TransportName, progress: Progress
) -> None:
    """Run the worker in a simulated federation whose nodes store records in the state folder.

    Args:
        loaded: The scenario: data, model, training and method.
        place: The state folder with requests and models.
        transport: ``inline`` or ``flower``.
        progress: Receives the progress of training and rounds.
    """
    experiment = Experiment.prepare(loaded)
    names = experiment.task.split.node_names
    try:
        with errors_by_name(names):
            simulate(
                experiment.task,
                len(names),
                lambda federation: work_in(site_of(experiment), federation, place),
                transport=transport,
                progress=progress,
                records=place.folder / NODES,
                refused=[names.place(name) for name in place.refused],
            )
    finally:
        place.stop.set()  # where the engine has failed, the worker inside is not informed
