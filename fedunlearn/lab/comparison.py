"""Scenarios over several seeds: every job once, on all cores, resumable."""

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
from dataclasses import replace
from typing import Protocol

import torch

from fedunlearn.errors import FederationError
from fedunlearn.lab.experiment import prepared
from fedunlearn.lab.federations import NewFederations
from fedunlearn.lab.jobs import Budgets, Job
from fedunlearn.lab.measuring import Measured
from fedunlearn.lab.result_store import FolderStore
from fedunlearn.lab.run_plan import RunPlan
from fedunlearn.progress import Progress
from fedunlearn.reporting.results import Results
from fedunlearn.scenario.loading import LoadedScenario

# The distance between the training seeds of two runs, so that no oracle serves both.
SEEDS_APART = 100

JobResult = Budgets | Measured | None
Submit = Callable[[Job], Future[JobResult]]


def with_seed(loaded: LoadedScenario, number: int) -> LoadedScenario:
    """Return the scenario of the run with a number.

    The number is added to the seeds of data and forget set, and a hundred times the number to the
    seed of training.
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
    store: FolderStore,
    processes: int,
    progress: Progress,
) -> list[list[Results]]:
    """Run every scenario with every seed.

    Args:
        scenarios: The scenarios.
        numbers: Numbers of the runs, see ``with_seed``.
        store: The store of the jobs' results, in which a later comparison finds them.
        processes: Number of jobs that run at once; with 1 they run in this process.
        progress: Receives one step for each job.

    Returns:
        For each scenario the results of its runs.

    Raises:
        InputError: A scenario cannot be run; found before anything runs.
        FederationError: A job failed; the results of those before it are stored.
    """
    runs = [with_seed(loaded, number) for loaded in scenarios for number in numbers]
    plans = [RunPlan(run, prepared(run)) for run in runs]
    run_plans(plans, store=store, processes=processes, progress=progress, label="comparing")
    results = iter([plan.measured.results for plan in plans if plan.measured is not None])
    return [[next(results) for _ in numbers] for _ in scenarios]


class Plan(Protocol):
    """Jobs, some of which may begin only when others are done."""

    jobs: int

    def first(self) -> list[Job]:
        """Return the jobs that need no other."""
        ...

    def after(self, job: Job, result: JobResult) -> list[Job]:
        """Return the jobs that may begin now that one is done."""
        ...


def run_plans(
    plans: Sequence[Plan],
    *,
    store: FolderStore,
    processes: int,
    progress: Progress,
    label: str,
) -> None:
    """Run the jobs of some plans, each once.

    Args:
        plans: The plans.
        store: See ``compare_scenarios``.
        processes: See ``compare_scenarios``.
        progress: See ``compare_scenarios``.
        label: Label of the progress bar.

    Raises:
        FederationError: A job failed; the results of those before it are stored.
    """
    jobs = sum(plan.jobs for plan in plans)
    with progress.piece(label, jobs), _workers(processes, store) as submit:
        waiting: dict[Future[JobResult], tuple[Plan, Job]] = {}
        for plan in plans:
            waiting |= {submit(job): (plan, job) for job in plan.first()}
        while waiting:
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                plan, job = waiting.pop(future)
                result = _result(future)
                progress.advance()
                waiting |= {submit(more): (plan, more) for more in plan.after(job, result)}


def _result(future: Future[JobResult]) -> JobResult:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise FederationError(
            "a worker process was ended from outside, perhaps because memory ran out; use fewer "
            "with --jobs, and run the same command again to resume"
        ) from error


@contextmanager
def _workers(processes: int, store: FolderStore) -> Iterator[Submit]:
    """Submit jobs to worker processes, each on one thread; none of them outlives the block."""
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
        yield lambda job: pool.submit(job.run, store, NewFederations())
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
    """Use one thread, and leave an interrupt to the process that submits the jobs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
