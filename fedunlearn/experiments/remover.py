"""The worker's removals, done by a scenario's method in its federation."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from fedunlearn.data.sources import Split
from fedunlearn.errors import FederationError, JobError, StoppedError
from fedunlearn.experiments.experiment import Experiment
from fedunlearn.experiments.kept import KeptModels
from fedunlearn.experiments.naming import by_name, errors_by_name
from fedunlearn.experiments.predicting import accuracy
from fedunlearn.experiments.removal import Unlearning, recover, train
from fedunlearn.federation.federation import Federation, TrainedModel
from fedunlearn.federation.forget import ForgetSet
from fedunlearn.federation.journal import Journal
from fedunlearn.networks import NetworkDigest, build_model
from fedunlearn.parameters import require_finite
from fedunlearn.requests.deletion import Scope, ScopeKind, Stage
from fedunlearn.unlearning.faults import unlearn
from fedunlearn.unlearning.retrain import Retrain
from fedunlearn.vectors import norm
from fedunlearn.worker.models import ModelFolder
from fedunlearn.worker.removal import RemovalJob, Removed

log = logging.getLogger(__name__)


def rule_of(scopes: Iterable[Scope], split: Split) -> ForgetSet:
    """Return the rule by which nodes find what some requests of one kind remove together.

    Args:
        scopes: What the requests name.
        split: The data, whose names they use.

    Returns:
        The rule, by numbers.

    Raises:
        UnknownNameError: The data have no node or class of a name.
    """
    all_of = list(scopes)
    node, label = split.node_names.place, split.labels.place
    match all_of[0].kind:
        case ScopeKind.NODE:
            return ForgetSet.of_nodes(*(node(name) for scope in all_of for name in scope.nodes))
        case ScopeKind.CLASS:
            labels = (label(name) for scope in all_of for name in scope.labels)
            return ForgetSet.of_class(*labels, on=map(node, all_of[0].nodes))
    places: dict[int, list[int]] = {}
    for scope in all_of:
        places.setdefault(node(scope.nodes[0]), []).extend(scope.records)
    return ForgetSet.of_records(places)


class ScenarioRemover:
    """Removes by the first method of a scenario, in a federation that is open."""

    def __init__(
        self,
        experiment: Experiment,
        federation: Federation,
        models: ModelFolder,
        folder: Path,
        left: Callable[[], Collection[str]],
    ) -> None:
        """Take the scenario and its nodes.

        Args:
            experiment: Data, model, method.
            federation: The nodes.
            models: The model files.
            folder: The state folder, for what is kept of training and of jobs that run.
            left: Returns the names of the nodes that have left.

        Raises:
            NotRecordedError: The method needs what is not kept in files.
        """
        self._experiment = experiment
        self._federation = federation
        self._jobs = folder / "jobs"
        self._training = folder / "training"
        self._left = left
        self._name, self._method = next(iter(experiment.methods.items()))
        model = build_model(experiment.task.model)
        self._network = NetworkDigest.of(model).digest.hex()
        self.kept = KeptModels(models, self._training, model, self._method)

    def train(self) -> str:
        """Train the first model, go on where that was interrupted, and keep it.

        Returns:
            sha256 of its file.
        """
        federation = replace(self._federation, journal=Journal(self._training / "journal"))
        seed = self._experiment.scenario.training.seed
        trained = train(self._experiment, federation, self._method.to_record(), seed)
        sha256 = self.kept.keep_first(trained)
        shutil.rmtree(self._training / "journal", ignore_errors=True)
        return sha256

    def remove(self, job: RemovalJob, reached: Callable[[Stage], None]) -> Removed:
        """See Remover; what an interrupted run has finished is not asked again."""
        with errors_by_name(self._split.node_names):
            try:
                return self._remove(job, reached)
            except JobError as error:
                log.warning("job %s begins anew: %s", job.id, error)
                self.done(job.id)
                return self._remove(job, reached)

    @property
    def _split(self) -> Split:
        return self._experiment.task.split

    def _gone(self) -> list[int]:
        """Return the numbers of the nodes that have left."""
        return [self._split.node_names.place(name) for name in self._left()]

    def bury(self, deletion: str, scope: Scope) -> Mapping[str, int]:
        """See Remover."""
        rule, names = rule_of([scope], self._split), self._split.node_names
        federation = self._federation
        if scope.kind is not ScopeKind.NODE:
            federation = federation.without(self._gone())
            return {names[node]: count for node, count in federation.bury(deletion, rule).items()}
        try:
            return {names[node]: count for node, count in federation.bury(deletion, rule).items()}
        except StoppedError:
            raise
        except FederationError:  # it has left, and the server refuses it
            log.warning("deletion %s: the node that left did not confirm", deletion)
            return {}

    def done(self, job: str) -> None:
        """See Remover."""
        shutil.rmtree(self._jobs / job, ignore_errors=True)

    def _remove(self, job: RemovalJob, reached: Callable[[Stage], None]) -> Removed:
        reached(Stage.COLLECTING)
        federation = self._federation.without(self._gone())
        federation = replace(federation, journal=Journal(self._jobs / job.id))
        trained = self.kept.load(job.base)
        split = self._split
        forget = rule_of(job.scopes.values(), split).following(
            rule_of([scope], split) for scope in job.before
        )
        method = Retrain() if job.again else self._method
        name = method.name if job.again else self._name
        rounds = 0 if job.again else self._experiment.scenario.unlearning.recovery_rounds
        reached(Stage.SOLVING)
        with federation.measure() as meter:
            if not job.again:  # a model that was trained on, or anew, has nothing recorded
                trained = federation.record(trained, method.to_record())
            unlearned = unlearn(method, trained, federation, forget)
            missing = tuple(int(node) for node in unlearned.details.get("dropped", {}))
            if missing:
                journal = Journal(self._jobs / job.id / "without-the-missing")
                federation = replace(federation.without(missing), journal=journal)
            weights = recover(
                Unlearning(federation, trained, forget, name), unlearned.weights, rounds
            )
            require_finite(weights, name)
            spent = meter.stopped()
        reached(Stage.VERIFYING)
        after = replace(trained, weights=weights, recorded={})
        if unlearned.trained is not None and weights is unlearned.weights:
            after = unlearned.trained
        settings: dict[str, Any] = method.settings.model_dump(mode="json", by_alias=True)
        return Removed(
            model=self.kept.content(weights),
            method=method.name,
            settings=settings | ({"recovery-rounds": rounds} if rounds else {}),
            status=by_name(unlearned.status, split.node_names),
            claim=unlearned.claim.value,
            nodes=tuple(split.node_names[node] for node in federation.nodes),
            missing=tuple(split.node_names[node] for node in missing),
            rounds=spent.rounds,
            bytes_up=spent.bytes_up,
            bytes_down=spent.bytes_down,
            measures=self._measures(federation, forget, trained, weights),
            keep=lambda folder: self.kept.keep(after, folder, job.base),
            network=self._network,
        )

    def _measures(
        self, federation: Federation, forget: ForgetSet, trained: TrainedModel, weights: Tensor
    ) -> dict[str, float]:
        """Ask those who stay for their loss before and after: one round."""
        objective = federation.objective(forget, weight_decay=0.0, without=forget.leavers)
        change = weights - trained.weights
        before, after = objective.losses(trained.weights, change[None]).tolist()
        measures = {
            "retain_loss_rise": after - before,
            "relative_update": norm(change) / max(norm(trained.weights), 1e-12),
        }
        task, gone = self._experiment.task, _removed_labels(forget)
        of_before, of_after = (
            accuracy(task, at, without=gone) for at in (trained.weights, weights)
        )
        if of_before is not None and of_after is not None:
            measures["test_accuracy_drop"] = of_before - of_after
        return measures


def _removed_labels(forget: ForgetSet) -> frozenset[int]:
    """Return the labels that were removed everywhere, now or before."""
    own = frozenset() if forget.on else forget.labels
    return own.union(*(_removed_labels(earlier) for earlier in forget.after))
