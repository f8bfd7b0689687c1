"""Removals in a user's own ServerApp, after training.

Example::

    result = strategy.start(grid, arrays, num_rounds=10)
    with unlearning(grid, context, model=Net, trained=result.arrays, initial=arrays) as removal:
        arrays = removal.forget(nodes=[2])
    print(removal.result)
"""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor, nn

from fedunlearn.carried import CarriedState
from fedunlearn.errors import FederationError, ForgetSetError, InputError
from fedunlearn.federation.federation import Federation, TrainedModel
from fedunlearn.flower.model_arrays import ModelArrays
from fedunlearn.flower.own_federation import OwnFederation, open_own_federation
from fedunlearn.flower.remembering import RememberingStrategy
from fedunlearn.flower.removal_result import Outcome, RemovalResult
from fedunlearn.flower.sessions import SessionSettings
from fedunlearn.flower.taking_over import hand_over, handing_over
from fedunlearn.names import Name
from fedunlearn.networks import build_model, running_statistics
from fedunlearn.parameters import require_finite
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.scenario.settings import TrainingSettings
from fedunlearn.unlearning.cubic_newton import CubicNewton
from fedunlearn.unlearning.faults import unlearn
from fedunlearn.unlearning.method import UnlearningMethod
from fedunlearn.unlearning.recovery import recover
from fedunlearn.unlearning.registry import make_method
from fedunlearn.unlearning.retrain import Retrain
from fedunlearn.unlearning.rewind import Rewind

log = logging.getLogger("flwr")

DEADLINE_S = 600.0
AUTO = "auto"
# Of the way that training went, and of its rounds: what ``auto`` keeps, and what it trains anew.
KEPT_SHARE = 0.3
TRAINED_SHARE = 1 / 3


@contextmanager
def unlearning(
    grid: Grid,
    context: Context,
    *,
    model: Callable[[], nn.Module],
    trained: ArrayRecord,
    initial: ArrayRecord | None = None,
    strategy: RememberingStrategy | Callable[[], Strategy] | None = None,
    training: TrainingSettings | None = None,
    train_config: ConfigRecord | None = None,
    num_nodes: int | None = None,
    deadline_s: float = DEADLINE_S,
    sessions: SessionSettings | None = None,
) -> Iterator[Removal]:
    """Open the nodes of a user's app for removals, after training.

    Args:
        grid: Of the ServerApp's main function.
        context: Likewise.
        model: Builds the model, as on the nodes.
        trained: The arrays that training ended with: ``result.arrays``.
        initial: The arrays that it began with. Without them, and without a remembering strategy,
            the step is taken at the trained weights, and some methods cannot be used.
        strategy: A RememberingStrategy around the one that trained, or a function that makes the
            user's strategy; for methods that train and for recovery rounds. These run the nodes'
            own ``train``, which leaves out what ``kept`` drops.
        training: How the nodes trained, as far as methods use it (weight decay, rounds). Left out,
            no weight decay.
        train_config: What training sent to the nodes beside the arrays; a remembering strategy
            knows it.
        num_nodes: How many nodes must be connected; left out, those that are.
        deadline_s: Seconds for every round.
        sessions: How rounds go over gRPC streams on a deployment; None for Flower's messages.

    Yields:
        What forgets.

    Raises:
        InputError: Model and arrays do not belong together, or an argument cannot be used.
        FederationError: A node cannot answer.
    """
    del context
    if isinstance(model, nn.Module) or not callable(model):
        raise InputError("unlearning: model is no function; give what builds the model, as Net")
    remembering = strategy if isinstance(strategy, RememberingStrategy) else None
    if remembering is not None:
        initial = remembering.initial if initial is None else initial
        train_config = remembering.train_config if train_config is None else train_config
    elif isinstance(strategy, Strategy):
        raise InputError(
            "unlearning: strategy has trained already, and its moments may hold what leaves; train "
            "with RememberingStrategy(strategy), or give a function that makes a new one"
        )
    form = ModelArrays.of(build_model(model).eval(), trained, "trained")
    weights = form.weights(trained)
    require_finite(weights, "trained")
    start = None
    if initial is not None:
        begun = ModelArrays.of(form.model, initial, "initial")
        start = begun.weights(initial)
        initial = form.record(start, {**form.state(trained), **begun.state(initial)})
    rounds = remembering.rounds if remembering is not None else 0
    settings = training or TrainingSettings(weight_decay=0.0, rounds=max(1, rounds))
    own = open_own_federation(
        grid,
        form,
        trained,
        initial=initial,
        strategy=strategy.anew if isinstance(strategy, RememberingStrategy) else strategy,
        train_config=train_config,
        least=num_nodes or 1,
        deadline_s=deadline_s,
        sessions=sessions,
        with_classes=handing_over(),
    )
    if remembering is not None and remembering.participants:
        own.participants = frozenset().union(*remembering.participants.values())
    model_now = TrainedModel(weights, start, settings, state=CarriedState(form.state(trained)))
    try:
        hand_over(own, model_now)
    except BaseException:
        own.federation.close()
        raise
    known = _Known(
        settings=training is not None,
        initial=start is not None,
        rounds=rounds > 0 or training is not None,
        strategy=strategy is not None,
    )
    try:
        yield Removal(own, form, model_now, form.state(trained), known)
    finally:
        own.federation.close()


@dataclass(frozen=True)
class _Known:
    """What the user told of training."""

    settings: bool
    initial: bool
    rounds: bool
    strategy: bool

    def assumed(self, method: str) -> list[str]:
        """Return what was assumed in the place of what is not known."""
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
    """Removes data from the model of a user's app, one request after the other."""

    def __init__(
        self,
        own: OwnFederation,
        form: ModelArrays,
        trained: TrainedModel,
        state: Mapping[str, Tensor],
        known: _Known,
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
        """What became of the last removal.

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
        """Remove data from the model, and have the nodes never use them again.

        Exactly one of nodes, classes and records says what leaves.

        Args:
            nodes: Nodes that leave as a whole: ``name`` or ``partition-id`` of their node config,
                or Flower's node ids where they have neither (``removal.nodes`` lists the names).
            classes: Labels that leave, everywhere or on some nodes (``on``).
            records: By node, the places of examples in the data that ``data`` of ``unlearnable``
                returns for training.
            on: For classes: the nodes it is about; left out, all.
            method: A method's name, or a method with its settings. ``auto``: where a remembering
                strategy was given, part of the way back towards the initial weights and then a
                third of the rounds of training on what stays (rewind); else one cubic-regularized
                Newton step (cubic-newton).
            recovery_rounds: Rounds of the user's own training on what stays, after the method.

        Returns:
            The new model, in the form of ``trained``.

        Raises:
            ForgetSetError: Nothing would leave, or nothing would stay.
            UnknownNameError: A node that is not enrolled.
            InputError: The method cannot be used here.
            FederationError: A round could not be completed; the model stays what it was.
        """
        forget = self._forget_set(nodes, classes, records, on).following(self._before)
        chosen = self._method(method)
        if recovery_rounds < 0:
            raise InputError("forget: recovery_rounds must be 0 or more")
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
                carried = CarriedState({name: state[name] for name in federation.state})
                changed = replace(federation, state=carried)
                after = self._evaluate(changed, weights, forget)
                recorded = own.record_tombstones(deletion, forget)
                excluded = False
                spent = meter.stopped()
        finally:
            if excluded:
                with suppress(FederationError):  # the first failure is the one to be reported
                    own.exclude_nothing()
        missing = tuple(int(node) for node in unlearned.details.get("dropped", {}))
        self._results.append(
            RemovalResult(
                forget=forget.described(own.names),
                method=chosen.name,
                settings=chosen.settings.model_dump(mode="json", by_alias=True),
                status=unlearned.status,
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
                    *dict.fromkeys(own.trainer.remarks),
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
        carried: CarriedState,
        state: Mapping[str, Tensor],
        forget: ForgetSet,
    ) -> None:
        """Let the next removal start from the new model."""
        self._trained = replace(self._trained, weights=weights, recorded={})
        self._state = dict(state)
        self._before.append(replace(forget, after=()))
        self._own.advance(forget.nodes, carried, state)

    def _new_model(
        self, federation: Federation, weights: Tensor, forget: ForgetSet
    ) -> tuple[ArrayRecord, dict[str, Tensor], str]:
        """Return the new model with buffers that hold nothing of what left."""
        trainer = self._own.trainer
        trained = trainer.state_of(weights)
        before = self._state if trained is None else dict(trained)
        if trained is not None and trainer.from_initial:
            return self._form.record(weights, before), before, "by the nodes' own training"
        carried = CarriedState({name: before[name] for name in federation.state})
        federation = replace(federation, state=carried)
        objective = federation.objective(forget, weight_decay=0.0, without=forget.leavers)
        found = objective.statistics(weights, federation.batch_size, seed=0)
        state = before | found
        statistics = "estimated anew on what stays" if running_statistics(found) else "none"
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

        Where the app's own training can be run: rewind, whose rounds bring back what stays alone.
        Models that were trained with momentum, adaptive rates and normalisation fit what leaves so
        well that its gradient at the trained weights is small, and one step from there is not
        enough. Without the strategy or the initial weights: one cubic-regularized Newton step.
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
