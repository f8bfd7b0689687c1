"""The worker's remover, which removes by a method in the operator's federation."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from fedunlearn.errors import FederationError, JobError, StoppedError, VerificationError
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.journal import Journal
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.federation.training import GivesState
from fedunlearn.model_state import ModelState
from fedunlearn.named_errors import by_name, errors_by_name
from fedunlearn.networks import NetworkDigest, build_model, running_statistics
from fedunlearn.operator.model_store import ModelStore, to_store
from fedunlearn.operator.site import Site
from fedunlearn.parameters import require_finite
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.requests.deletion import Scope, ScopeKind, Stage
from fedunlearn.unlearning.faults import unlearn
from fedunlearn.unlearning.recovery import recover
from fedunlearn.unlearning.retrain import Retrain
from fedunlearn.vectors import norm
from fedunlearn.worker.model_folder import ModelFolder
from fedunlearn.worker.removal_job import RemovalJob, Removed

ANEW = "estimated again on the retain set"
BY_TRAINING = "by the nodes' own training on the retain set"

log = logging.getLogger(__name__)


class FederationRemover:
    """Removes by the operator's method in an open federation."""

    def __init__(
        self,
        site: Site,
        federation: Federation,
        models: ModelFolder,
        folder: Path,
        left: Callable[[], Collection[str]],
    ) -> None:
        """Store the parts of the remover.

        Args:
            site: Names, model and method of the federation.
            federation: The open federation.
            models: The model files.
            folder: The state folder, for files of the training and of running jobs.
            left: Returns the names of the nodes that have left.

        Raises:
            NotRecordedError: The method needs recordings that are not stored in files.
        """
        self._site = site
        self._federation = federation
        self._jobs = folder / "jobs"
        self._training = folder / "training"
        self._left = left
        self._method = site.method
        model = build_model(site.model)
        self._network = NetworkDigest.of(model).digest.hex()
        self.model_store = ModelStore(models, self._training, model, self._method)

    def train(self) -> str:
        """Train the first model and store it; an interrupted training is resumed.

        Returns:
            sha256 of the model file.

        Raises:
            VerificationError: The operator trains elsewhere, and has registered no model yet.
        """
        if self._site.train is None:
            raise VerificationError(
                "the state folder has no model; train the app first, with "
                "unlearning(..., state=...) in its server_app, which registers the model"
            )
        federation = replace(self._federation, journal=Journal(self._training / "journal"))
        trained = self._site.train(federation, to_store(self._method))
        sha256 = self.model_store.store_first(trained)
        shutil.rmtree(self._training / "journal", ignore_errors=True)
        return sha256

    def remove(self, job: RemovalJob, reached: Callable[[Stage], None]) -> Removed:
        """See Remover; rounds that an interrupted run has finished are not repeated."""
        with errors_by_name(self._site.nodes):
            try:
                return self._remove(job, reached)
            except JobError as error:
                log.warning("job %s is restarted: %s", job.id, error)
                self.done(job.id)
                return self._remove(job, reached)

    def _nodes_left(self) -> list[int]:
        """Return the numbers of the nodes that have left."""
        return [self._site.nodes.place(name) for name in self._left()]

    def record_tombstones(self, deletion: str, scope: Scope) -> Mapping[str, int]:
        """See Remover."""
        rule, names = self._site.rule_of([scope]), self._site.nodes
        federation = self._federation
        if scope.kind is not ScopeKind.NODE:
            federation = federation.without(self._nodes_left())
            return {
                names[node]: count
                for node, count in federation.record_tombstones(deletion, rule).items()
            }
        try:
            return {
                names[node]: count
                for node, count in federation.record_tombstones(deletion, rule).items()
            }
        except StoppedError:
            raise
        except FederationError:  # the node has left, so the removal does not depend on its answer
            log.warning("deletion %s: a node that has left did not confirm", deletion)
            return {}

    def done(self, job: str) -> None:
        """See Remover."""
        shutil.rmtree(self._jobs / job, ignore_errors=True)

    def _remove(self, job: RemovalJob, reached: Callable[[Stage], None]) -> Removed:
        reached(Stage.COLLECTING)
        federation = self._federation.without(self._nodes_left())
        federation = replace(federation, journal=Journal(self._jobs / job.id))
        trained = self.model_store.load(job.base)
        site = self._site
        federation = replace(federation, state=self._carried(trained.state))
        forget = site.rule_of(job.scopes.values()).following(
            site.rule_of([scope]) for scope in job.before
        )
        method = Retrain() if job.again else self._method
        name = method.name if job.again else site.name
        rounds = 0 if job.again else site.recovery_rounds
        reached(Stage.SOLVING)
        with federation.measure() as meter:
            if not job.again:  # retraining needs nothing recorded
                trained = federation.record(trained, method.to_record())
            unlearned = unlearn(method, trained, federation, forget)
            missing = tuple(int(node) for node in unlearned.details.get("dropped", {}))
            if missing:
                journal = Journal(self._jobs / job.id / "without-the-missing")
                federation = replace(federation.without(missing), journal=journal)
            weights = recover(federation, trained, forget, unlearned.weights, rounds, name=name)
            require_finite(weights, name)
            state, statistics = self._statistics(federation, forget, trained, weights)
            spent = meter.stopped()
        reached(Stage.VERIFYING)
        after = replace(trained, weights=weights, recorded={}, state=state)
        if unlearned.trained is not None and weights is unlearned.weights:
            after = replace(unlearned.trained, state=state)
        settings: dict[str, Any] = method.settings.model_dump(mode="json", by_alias=True)
        return Removed(
            model=self.model_store.content(weights, state),
            method=method.name,
            settings=settings | ({"recovery-rounds": rounds} if rounds else {}),
            status=by_name(unlearned.status, site.nodes),
            claim=unlearned.claim.value,
            nodes=tuple(site.nodes[node] for node in federation.nodes),
            missing=tuple(site.nodes[node] for node in missing),
            rounds=spent.rounds,
            bytes_up=spent.bytes_up,
            bytes_down=spent.bytes_down,
            measures=self._measures(federation, forget, trained, after),
            keep=lambda folder: self.model_store.store_recorded(after, folder, job.base),
            network=self._network,
            statistics=statistics,
            uses_kept=site.uses_kept,
        )

    def _carried(self, state: Mapping[str, Tensor]) -> ModelState:
        """Return the part of a model's state that is sent to nodes with questions."""
        carried = self._site.carried
        return ModelState({n: t for n, t in state.items() if carried is None or n in carried})

    def _statistics(
        self, federation: Federation, forget: ForgetSet, trained: TrainedModel, weights: Tensor
    ) -> tuple[Mapping[str, Tensor], str]:
        """Estimate running statistics again without the forget set: one round, if there are any.

        Returns:
            The new state, and the origin of its running statistics; empty if it has none.
        """
        trainer = federation.trainer
        given = trainer.state_of(weights) if isinstance(trainer, GivesState) else None
        state = trained.state if given is None else ModelState(given)
        if not running_statistics(federation.state):
            return state, ""
        if given is not None and isinstance(trainer, GivesState) and trainer.from_initial:
            return state, BY_TRAINING
        federation = replace(federation, state=self._carried(state))
        objective = federation.objective(forget, weight_decay=0.0, without=forget.leavers)
        size = max(2, federation.batch_size)
        found = objective.statistics(weights, size, trained.settings.seed)
        return ModelState({**state, **found}), ANEW

    def _measures(
        self, federation: Federation, forget: ForgetSet, trained: TrainedModel, new: TrainedModel
    ) -> dict[str, float]:
        """Evaluate both models on the nodes that stay: one round; two if their states differ."""
        objective = federation.objective(forget, weight_decay=0.0, without=forget.leavers)
        change = new.weights - trained.weights
        before, after = objective.evaluate(trained.weights, change[None])[Part.RETAIN]
        if running_statistics(federation.state):
            federation = replace(federation, state=self._carried(new.state))
            objective = federation.objective(forget, weight_decay=0.0, without=forget.leavers)
            (after,) = objective.evaluate(new.weights, change[None][:0])[Part.RETAIN]
        measures = {"relative_update": norm(change) / max(norm(trained.weights), 1e-12)}
        if before.own is not None and after.own is not None:
            measures["retain_loss_rise"] = after.own.loss - before.own.loss
        if before.held_out is not None and after.held_out is not None:
            pair = before.held_out.accuracy, after.held_out.accuracy
            if pair[0] is not None and pair[1] is not None:
                measures["test_accuracy_drop"] = pair[0] - pair[1]
        return measures
