"""Removals from the model of a user's app, in an open federation."""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from flwr.app import ArrayRecord
from torch import Tensor

from fedunlearn.errors import FederationError, ForgetSetError, InputError
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.flower.model_arrays import ModelArrays
from fedunlearn.flower.own_federation import OwnFederation
from fedunlearn.flower.removal_result import Outcome, RemovalResult
from fedunlearn.model_state import ModelState
from fedunlearn.named_errors import by_name, errors_by_name
from fedunlearn.names import Name
from fedunlearn.networks import running_statistics
from fedunlearn.parameters import require_finite
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.unlearning.cubic_newton import CubicNewton
from fedunlearn.unlearning.faults import unlearn
from fedunlearn.unlearning.method import UnlearningMethod
from fedunlearn.unlearning.recovery import recover
from fedunlearn.unlearning.registry import make_method
from fedunlearn.unlearning.retrain import Retrain
from fedunlearn.unlearning.rewind import Rewind

log = logging.getLogger("flwr")

AUTO = "auto"
# Shares of the way that training went and of its rounds that ``auto`` retains and trains again.
KEPT_SHARE = 0.3
TRAINED_SHARE = 1 / 3
# Rounds that ``auto`` adds at a time where the model on the retain set is clearly worse than before
# (in nats, or in share of the examples), and the largest share of training's rounds that it trains.
SHORT_ACCURACY, SHORT_LOSS = 0.015, 0.05
ADDED_SHARE, MOST_SHARE = 1 / 6, 2 / 3
BY_TRAINING = "by the nodes' own training"


@dataclass(frozen=True)
class Known:
    """Which facts about training the user has given."""

    settings: bool
    initial: bool
    rounds: bool
    strategy: bool

    def assumed(self, method: str) -> list[str]:
        """Return the assumptions made in place of facts that are not known."""
        remarks = []
        if not self.initial and method in ("cubic-newton", "stochastic-cubic-newton"):
            remarks.append(
                "initial weights are not known: the step is taken at the trained weights "
                "(linearise-at 1), and how far training had converged is not measured"
            )
        if not self.settings:
            remarks.append("training settings are not known: no weight decay assumed")
        return remarks


class Removal:
    """A removal of data from the model of a user's app, one request after the other."""

    def __init__(
        self,
        own: OwnFederation,
        form: ModelArrays,
        trained: TrainedModel,
        state: Mapping[str, Tensor],
        known: Known,
    ) -> None:
        """Take an open federation; ``unlearning`` opens one."""
        self._own = own
        self._form = form
        self._trained = trained
        self._state = dict(state)
        self._known = known
        self._before: list[ForgetSet] = []
        self._results: list[RemovalResult] = []

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of the nodes that are enrolled, as ``forget`` takes them."""
        return tuple(self._own.names[number] for number in self._own.federation.nodes)

    @property
    def result(self) -> RemovalResult:
        """The result of the last removal.

        Raises:
            InputError: Nothing was removed yet.
        """
        if not self._results:
            raise InputError("removal.result: nothing was removed yet; call removal.forget(...)")
        return self._results[-1]

    def forget(
        self,
        *,
        nodes: Iterable[Name] | Name | None = None,
        classes: Iterable[int] | int | None = None,
        records: Mapping[Name, Iterable[int]] | None = None,
        on: Iterable[Name] | None = None,
        method: str | UnlearningMethod[Any] = AUTO,
        recovery_rounds: int = 0,
    ) -> ArrayRecord:
        """Remove data from the model, and exclude them permanently from the nodes' training.

        Exactly one of nodes, classes and records defines the forget set.

        Args:
            nodes: Nodes that leave completely: ``name`` or ``partition-id`` of their node config,
                or Flower's node ids where they have neither (``removal.nodes`` lists the names).
            classes: Labels that are removed, on all nodes or on some (``on``).
            records: Places of examples, by node, in the data that ``data`` of ``unlearnable``
                returns for training.
            on: The nodes from which classes are removed. If it is left out, all nodes.
            method: A method's name, or a method with its settings. With ``auto``, where a
                remembering strategy was given, the method is rewind: part of the way back towards
                the initial weights, then a third of the rounds of training on the retain set, or up
                to two thirds where its accuracy needs more. Otherwise ``auto`` takes one
                cubic-regularized Newton step (cubic-newton).
            recovery_rounds: Rounds of the user's own training on the retain set, after the method.

        Returns:
            The new model, in the form of ``trained``.

        Raises:
            ForgetSetError: Nothing would be removed, or nothing would stay.
            UnknownNameError: A node is not enrolled.
            InputError: The method cannot be used here.
            FederationError: A round could not be completed; the model is not changed.
        """
        if recovery_rounds < 0:
            raise InputError("forget: recovery_rounds must be 0 or more")
        forget = self._forget_set(nodes, classes, records, on).following(self._before)
        with errors_by_name(self._own.names):
            return self._forget(forget, self._method(method), recovery_rounds, method == AUTO)

    def _forget(
        self, forget: ForgetSet, chosen: UnlearningMethod[Any], recovery_rounds: int, auto: bool
    ) -> ArrayRecord:
        deletion = uuid.uuid4().hex
        own = self._own
        federation = own.federation
        excluded = False
        try:
            with federation.measure() as meter:
                before = self._evaluate(federation, self._trained.weights, forget)
                self._require_both(before, forget)
                excluded = True
                unlearned = unlearn(chosen, self._trained, federation, forget)
                weights = recover(
                    federation,
                    self._trained,
                    forget,
                    unlearned.weights,
                    recovery_rounds,
                    name=chosen.name,
                )
                require_finite(weights, chosen.name)
                arrays, state, statistics = self._new_model(federation, weights, forget)
                carried = ModelState({name: state[name] for name in federation.state})
                changed = replace(federation, state=carried)
                after = self._evaluate(changed, weights, forget)
                while auto and (more := self._more_rounds(chosen, recovery_rounds, before, after)):
                    recovery_rounds += more
                    own.trainer.state = state
                    weights = recover(
                        changed, self._trained, forget, weights, more, name=chosen.name
                    )
                    require_finite(weights, chosen.name)
                    arrays, state, statistics = self._new_model(changed, weights, forget, state)
                    carried = ModelState({name: state[name] for name in federation.state})
                    changed = replace(federation, state=carried)
                    after = self._evaluate(changed, weights, forget)
                recorded = own.record_tombstones(deletion, forget)
                excluded = False
                spent = meter.stopped()
        finally:
            if excluded:
                own.trainer.state = dict(self._state)
                with suppress(FederationError):  # the first failure is the one that is reported
                    own.exclude_nothing()
        missing = tuple(int(node) for node in unlearned.details.get("dropped", {}))
        self._results.append(
            RemovalResult(
                forget=forget.described(own.names),
                method=chosen.name,
                settings=chosen.settings.model_dump(mode="json", by_alias=True),
                status=by_name(unlearned.status, own.names),
                claim=unlearned.claim.value,
                nodes=self.nodes,
                missing=tuple(own.names[node] for node in missing),
                removed={own.names[node]: count for node, count in recorded.items()},
                before=before,
                after=after,
                statistics=statistics,
                recovery_rounds=recovery_rounds,
                rounds=spent.rounds,
                bytes_up=spent.bytes_up,
                bytes_down=spent.bytes_down,
                kept=own.kept,
                remarks=(
                    *self._known.assumed(chosen.name),
                    *own.remarks(),
                    *(by_name(one, own.names) for one in dict.fromkeys(own.trainer.remarks)),
                ),
                details=dict(unlearned.details),
            )
        )
        own.trainer.remarks.clear()
        self._advance(weights, carried, state, forget)
        for line in str(self.result).splitlines():
            log.info("%s", line)
        return arrays

    def _advance(
        self,
        weights: Tensor,
        carried: ModelState,
        state: Mapping[str, Tensor],
        forget: ForgetSet,
    ) -> None:
        """Set the new model as the start of the next removal."""
        self._trained = replace(self._trained, weights=weights, recorded={})
        self._state = dict(state)
        self._before.append(replace(forget, after=()))
        self._own.advance(forget.nodes, carried, state)

    def _more_rounds(
        self, chosen: UnlearningMethod[Any], spent: int, before: Outcome, after: Outcome
    ) -> int:
        """Return the number of training rounds to add, by the model's quality on the retain set.

        A strategy may take smaller steps than it did when training began. Rounds are added until
        the model on the retain set is nearly as good as before, or until training has cost most of
        a retraining.
        """
        if not isinstance(chosen, Rewind) or before.retain is None or after.retain is None:
            return 0
        pair = before.retain.accuracy, after.retain.accuracy
        if pair[0] is not None and pair[1] is not None:
            short = pair[0] - pair[1] > SHORT_ACCURACY
        else:
            short = after.retain.loss - before.retain.loss > SHORT_LOSS
        rounds = self._trained.settings.rounds
        left = math.floor(MOST_SHARE * rounds) - (chosen.settings.rounds or 0) - spent
        return max(0, min(left, math.ceil(ADDED_SHARE * rounds))) if short else 0

    def _new_model(
        self,
        federation: Federation,
        weights: Tensor,
        forget: ForgetSet,
        state: Mapping[str, Tensor] | None = None,
    ) -> tuple[ArrayRecord, dict[str, Tensor], str]:
        """Return the new model with buffers that contain nothing of the forget set."""
        trainer = self._own.trainer
        trained = trainer.state_of(weights)
        before = dict(trained) if trained is not None else dict(state or self._state)
        if trained is not None and trainer.from_initial:
            statistics = BY_TRAINING if running_statistics(before) else "none"
            return self._form.record(weights, before), before, statistics
        carried = ModelState({name: before[name] for name in federation.state})
        federation = replace(federation, state=carried)
        objective = federation.objective(forget, weight_decay=0.0, without=forget.leavers)
        found = objective.statistics(weights, federation.batch_size, seed=0)
        state = before | found
        statistics = "estimated again on the retain set" if running_statistics(found) else "none"
        return self._form.record(weights, state), state, statistics

    def _evaluate(self, federation: Federation, weights: Tensor, forget: ForgetSet) -> Outcome:
        objective = federation.objective(
            forget, weight_decay=0.0, without=forget.leavers - forget.nodes
        )
        nothing = torch.empty(0, len(weights), dtype=weights.dtype)
        found = objective.evaluate(weights, nothing, (Part.RETAIN, Part.FORGET))
        retain, left = found.get(Part.RETAIN), found.get(Part.FORGET)
        return Outcome(
            retain=retain[0].own if retain else None,
            forget=left[0].own if left else None,
            held_out=retain[0].held_out if retain else None,
        )

    def _require_both(self, before: Outcome, forget: ForgetSet) -> None:
        what = forget.described(self._own.names)
        if before.forget is None:
            raise ForgetSetError(f"forget: no node has any example of {what}")
        if before.retain is None:
            raise ForgetSetError(f"forget: {what} is all there is; something must stay")

    def _method(self, method: str | UnlearningMethod[Any]) -> UnlearningMethod[Any]:
        if isinstance(method, UnlearningMethod):
            chosen = method
        elif isinstance(method, str):
            chosen = self._auto() if method == AUTO else make_method(method, {})
            fields = type(chosen.settings).model_fields
            if "linearise_at" in fields and not self._known.initial:
                at_trained = chosen.settings.model_copy(update={"linearise_at": 1.0})
                chosen = type(chosen)(at_trained)
        else:
            raise InputError(
                f"forget: method is {type(method).__name__}; give a name, as 'cubic-newton', or a "
                "method of fedunlearn, as fedunlearn.CubicNewton(products=20)"
            )
        if chosen.to_record():
            raise InputError(
                f"{chosen.name} needs what is recorded when training ends; take cubic-newton, "
                "fine-tune, rewind or retrain"
            )
        if isinstance(chosen, Retrain) and not self._known.rounds:
            raise InputError(
                "retrain: how many rounds training took is not known; give unlearning(..., "
                "strategy=RememberingStrategy(...)) or training=TrainingSettings(rounds=...)"
            )
        return chosen

    def _auto(self) -> UnlearningMethod[Any]:
        """Return the method that is expected to come closest to a retrained model.

        Where the app's own training can be run this is rewind, whose rounds restore only the retain
        set. Models that were trained with momentum, adaptive rates and normalisation fit the forget
        set so well that its gradient at the trained weights is small, and one step from there is
        not enough. Without the strategy or the initial weights it is one cubic-regularized Newton
        step.
        """
        known = self._known
        if known.strategy and known.initial and known.rounds:
            rounds = max(1, math.ceil(TRAINED_SHARE * self._trained.settings.rounds))
            return Rewind(share=KEPT_SHARE, rounds=rounds)
        return CubicNewton()

    def _forget_set(
        self,
        nodes: Iterable[Name] | Name | None,
        classes: Iterable[int] | int | None,
        records: Mapping[Name, Iterable[int]] | None,
        on: Iterable[Name] | None,
    ) -> ForgetSet:
        given = [one for one in (nodes, classes, records) if one is not None]
        if len(given) != 1:
            raise InputError(
                "forget: give one of nodes=[...], classes=[...] and records={node: [places]}"
            )
        number = self._own.number
        if nodes is not None:
            names = [nodes] if isinstance(nodes, str | int | float) else list(nodes)
            if not names:
                raise InputError("forget: nodes names none; give at least one")
            return ForgetSet.of_nodes(*(number(name, "forget: nodes") for name in names))
        if classes is not None:
            labels = [classes] if isinstance(classes, int) else list(classes)
            if not labels or not all(type(one) is int and one >= 0 for one in labels):
                raise InputError(
                    "forget: classes are whole numbers, as the data's targets have them; give "
                    "classes=[3]"
                )
            return ForgetSet.of_class(*labels, on=[number(one, "forget: on") for one in on or ()])
        if not isinstance(records, Mapping) or not records:
            raise InputError("forget: records are places by node; give records={2: [0, 17]}")
        return self._own.records({number(n, "forget: records"): v for n, v in records.items()})
