"""The plan of a run: which jobs a scenario needs, and which may begin when others are done."""

from __future__ import annotations

from fedunlearn.lab.experiment import Experiment
from fedunlearn.lab.jobs import Budgets, Job, Measure, Retrain, Train, Unlearn
from fedunlearn.lab.measuring import Measured
from fedunlearn.scenario.loading import LoadedScenario


class RunPlan:
    """The jobs of one run of one scenario.

    Attributes:
        jobs: Number of jobs.
        measured: The results, once the last job is done.
    """

    def __init__(self, loaded: LoadedScenario, experiment: Experiment) -> None:
        """Plan a run.

        Args:
            loaded: The scenario, with the seeds of the run.
            experiment: The same scenario, prepared.
        """
        self._loaded = loaded
        self._methods = list(experiment.methods)
        self._seeds = experiment.replica_seeds
        self._trained: list[int] = []
        self._oracles = [
            Retrain(loaded, request, seed)
            for request in range(len(experiment.requests))
            for seed in experiment.oracle_seeds
        ]
        self._budgets: Budgets | None = None
        self.jobs = len(self._seeds) * (1 + len(self._methods)) + len(self._oracles) + 1
        self._left = self.jobs - 1
        self.measured: Measured | None = None

    @property
    def budgets(self) -> Budgets:
        """Client compute that the first method set for each request."""
        assert self._budgets is not None  # the first method is done
        return self._budgets

    def first(self) -> list[Job]:
        """Return the jobs that need no other."""
        return [*(Train(self._loaded, seed) for seed in self._seeds), *self._oracles]

    def after(self, job: Job, result: Budgets | Measured | None) -> list[Job]:
        """Return the jobs that may begin now that one is done.

        Args:
            job: The job.
            result: What it returned.

        Returns:
            Further jobs; none where others have to end first.
        """
        self._left -= 1
        following: list[Job] = []
        match job, result:
            case Train(seed=seed), _:
                self._trained.append(seed)
                first = Unlearn(self._loaded, seed, self._methods[0], None)
                following = [first, *self._others(seed)]
            case Unlearn(seed=seed, budgets=None), tuple() if seed == self._seeds[0]:
                self._budgets = result
                following = [more for ready in self._trained for more in self._others(ready)]
            case Measure(), Measured():
                self.measured = result
        if self._left == 0:
            following = [Measure(self._loaded, self.budgets)]
        return following

    def _others(self, seed: int) -> list[Job]:
        """Return the jobs of the methods but the first, once it has set their client compute."""
        if self._budgets is None:
            return []
        return [Unlearn(self._loaded, seed, name, self._budgets) for name in self._methods[1:]]
