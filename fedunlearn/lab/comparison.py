"""Scenarios over several seeds: every job once, on the cores there are, resumable."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from fedunlearn.errors import FederationError
from fedunlearn.lab.experiment import Experiment
from fedunlearn.lab.jobs import Job, Measure, Oracle, Remove, Train
from fedunlearn.lab.store import Store
from fedunlearn.progress import Progress
from fedunlearn.scenario.loading import LoadedScenario

# Between the training seeds of two runs, so that no oracle serves both.
SEEDS_APART = 100

Submit = Callable[[Job], Future[Any]]


def with_seed(loaded: LoadedScenario, number: int) -> LoadedScenario:
    """Return a scenario as its run of a number sees it.

    Data and forget set are drawn with seeds that much larger, models are trained with seeds a
    hundred times that much larger.
    """
    settings = loaded.settings
    changed = {
        "data": settings.data.model_copy(update={"seed": settings.data.seed + number}),
        "forget": settings.forget.model_copy(update={"seed": settings.forget.seed + number}),
        "training": settings.training.model_copy(
            update={"seed": settings.training.seed + SEEDS_APART * number}
        ),
    }
    return replace(loaded, settings=settings.model_copy(update=changed))


def compare_scenarios(
    scenarios: Sequence[LoadedScenario],
    numbers: Sequence[int],
    *,
    store: Store,
    processes: int,
    progress: Progress,
) -> list[list[dict[str, Any]]]:
    """Run every scenario with every seed.

    Args:
        scenarios: What to run.
        numbers: Of the runs, see ``with_seed``.
        store: Where results are kept, and found.
        processes: How many jobs run at once; with 1 they run in this process.
        progress: Hears of every job.

    Returns:
        For each scenario the results of its runs, as in results.json.

    Raises:
        InputError: A scenario cannot be run; found before anything runs.
        FederationError: A job failed; those before it are kept.
    """
    cells = [_Cell(with_seed(loaded, number)) for loaded in scenarios for number in numbers]
    jobs = sum(cell.jobs for cell in cells)
    with progress.piece("comparing", jobs), _workers(processes, store) as submit:
        waiting: dict[Future[Any], tuple[_Cell, Job]] = {}
        for cell in cells:
            waiting |= {submit(job): (cell, job) for job in cell.first()}
        while waiting:
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                cell, job = waiting.pop(future)
                result = _result(future)
                progress.advance()
                waiting |= {submit(more): (cell, more) for more in cell.after(job, result)}
    documents = iter(cells)
    return [[next(documents).document for _ in numbers] for _ in scenarios]


@dataclass
class _Cell:
    """One run of one scenario: which jobs may begin when others are done."""

    loaded: LoadedScenario
    document: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        experiment = Experiment.prepare(self.loaded)
        self._methods = list(experiment.methods)
        self._seeds = experiment.replica_seeds
        self._trained: list[int] = []
        self._oracles = [
            Oracle(self.loaded, request, seed)
            for request in range(len(experiment.requests))
            for seed in experiment.oracle_seeds
        ]
        self._budgets: tuple[float, ...] | None = None
        self.jobs = len(self._seeds) * (1 + len(self._methods)) + len(self._oracles) + 1
        self._left = self.jobs - 1

    def first(self) -> list[Job]:
        return [*(Train(self.loaded, seed) for seed in self._seeds), *self._oracles]

    def after(self, job: Job, result: Any) -> list[Job]:
        self._left -= 1
        following: list[Job] = []
        match job:
            case Train(seed=seed):
                self._trained.append(seed)
                first = Remove(self.loaded, seed, self._methods[0], None)
                following = [first, *self._others(seed)]
            case Remove(seed=seed, budgets=None) if seed == self._seeds[0]:
                self._budgets = result
                following = [more for ready in self._trained for more in self._others(ready)]
            case Measure():
                self.document = result
        if self._left == 0:
            assert self._budgets is not None  # the first method is done
            following = [Measure(self.loaded, self._budgets)]
        return following

    def _others(self, seed: int) -> list[Job]:
        """Return what the methods but the first do, once it has set their client compute."""
        if self._budgets is None:
            return []
        return [Remove(self.loaded, seed, name, self._budgets) for name in self._methods[1:]]


def _result(future: Future[Any]) -> Any:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise FederationError(
            "a worker process was ended from outside, perhaps for want of memory; use fewer "
            "with --jobs, and run the same command again to go on"
        ) from error


@contextmanager
def _workers(processes: int, store: Store) -> Iterator[Submit]:
    """Give jobs to worker processes, each on one thread; none of them outlives the block."""
    threads = torch.get_num_threads()
    before = multiprocessing.active_children()
    pool: Executor
    if processes == 1:
        torch.set_num_threads(1)
        pool = ThreadPoolExecutor(1)
    else:
        spawning = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(processes, mp_context=spawning, initializer=_start_worker)
    try:
        yield lambda job: pool.submit(job.run, store)
        pool.shutdown()
    except BaseException:
        for child in multiprocessing.active_children():
            if child not in before:
                child.terminate()
        pool.shutdown(wait=processes > 1, cancel_futures=True)
        raise
    finally:
        torch.set_num_threads(threads)


def _start_worker() -> None:
    """One thread each; an interrupt is for the process that gave the jobs out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
