"""The federation that methods use: nodes that train together and answer rounds."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from fedunlearn.errors import FederationError, ForgetSetError, InputError
from fedunlearn.federation.accounting import Meter, MeterStack
from fedunlearn.federation.head import FittedHead, fit_head, head_of, to_flat
from fedunlearn.federation.journal import Journal, KeptTraining, Spent, TrainingJournal
from fedunlearn.federation.objective import FederatedObjective
from fedunlearn.federation.trained_model import (
    Recordable,
    Recorded,
    TrainedModel,
    TrainingObserver,
    WeightsObserver,
    require_vector,
)
from fedunlearn.federation.training import LocalResult, OnLocal, OnRound, Trainer, TrainingPlan
from fedunlearn.federation.transport.base import Transport
from fedunlearn.model_state import ModelState
from fedunlearn.names import listed
from fedunlearn.node.enrolment import Enrolment
from fedunlearn.parameters import ParameterLayout
from fedunlearn.progress import Progress, Silent
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.settings import TrainingSettings

# Maps a deletion, its forget set and its nodes to the number of examples that each has recorded.
SendTombstones = Callable[[str, ForgetSet, Sequence[int]], dict[int, int]]


class OnFault(enum.StrEnum):
    """The rule for a job in which a node fails."""

    ABORT = "abort"
    DROP = "drop"


@dataclass
class Federation:
    """The enrolled nodes, and the means to reach them.

    Attributes:
        examples: Number of examples of each node.
        transport: Transport that carries rounds.
        trainer: Trainer that runs federated averaging.
        meters: Meters that count the cost.
        progress: Progress display, which is updated after every round.
        layout: Positions of the model's tensors in the weights (d,); None where unknown.
        state: Tensors of the model, besides its trainable weights, that nodes load before they
            answer, by name in ``state_dict``; see ``state_to_transfer``.
        batch_size: Size of the batches in which nodes estimate running statistics, as in training.
        deadline_s: Seconds within which every node must answer a round.
        journal: Stores what is finished, so that a later run can resume after this one was killed;
            None stores nothing.
        enrolments: The enrolment of every node; empty where nodes did not enrol.
        send_tombstones: Sends tombstones to nodes; see ``record_tombstones``.
        on_fault: Whether a job in which a node fails ends, or restarts without that node.
        close: Releases the nodes; used as a context, the federation calls it at the end.
    """

    examples: Mapping[int, int]
    transport: Transport
    trainer: Trainer
    meters: MeterStack
    progress: Progress = field(default_factory=Silent)
    layout: ParameterLayout | None = None
    state: Mapping[str, Tensor] = field(default_factory=ModelState)
    batch_size: int = 32
    deadline_s: float = 600.0
    journal: Journal | None = None
    on_fault: OnFault = OnFault.ABORT
    enrolments: Mapping[int, Enrolment] = field(default_factory=dict)
    send_tombstones: SendTombstones | None = None
    close: Callable[[], None] = lambda: None

    def __enter__(self) -> Federation:
        """Return the federation; see close."""
        return self

    def __exit__(self, *failure: object) -> None:
        """Release the nodes."""
        self.close()

    @property
    def nodes(self) -> tuple[int, ...]:
        """All nodes, ascending."""
        return tuple(sorted(self.examples))

    @property
    def largest(self) -> int:
        """The node with the most examples; the first where several have the same number."""
        return max(self.nodes, key=lambda node: self.examples[node])

    def without(self, nodes: Iterable[int]) -> Federation:
        """Return the same federation without some nodes, with a journal of its own."""
        gone = sorted(set(nodes))
        return replace(
            self,
            examples={n: count for n, count in self.examples.items() if n not in gone},
            journal=self.journal.apart("without-" + "-".join(map(str, gone)))
            if self.journal
            else None,
        )

    def record_tombstones(self, deletion: str, forget: ForgetSet) -> dict[int, int]:
        """Record tombstones on every node that may hold some of the forget set of a deletion.

        Args:
            deletion: Id of the deletion.
            forget: The forget set of the deletion.

        Returns:
            The number of examples that each of these nodes has put on its durable list. Nodes that
            are no longer enrolled are left out.

        Raises:
            FederationError: This federation has no means to send tombstones.
        """
        if self.send_tombstones is None:
            raise FederationError("this federation cannot record on its nodes what was removed")
        self.close()
        nodes = [node for node in self.nodes if not forget.named or node in forget.named]
        return self.send_tombstones(deletion, forget, nodes) if nodes else {}

    def record(self, trained: TrainedModel, wanted: Iterable[Recordable]) -> TrainedModel:
        """Record what methods need, at the end of training.

        Args:
            trained: The trained model.
            wanted: The recordables; those already recorded are not recorded again.

        Returns:
            The same model, with all recordings.
        """
        recorded = dict(trained.recorded)
        for item in wanted:
            if item not in recorded and not isinstance(item, WeightsObserver):
                with self.measure() as meter:
                    value = item.record(trained, self)
                recorded[item] = Recorded(value, meter.stopped())
        return replace(trained, recorded=recorded)

    def objective(
        self,
        forget: ForgetSet,
        *,
        weight_decay: float,
        without: Iterable[int] = (),
        only: Iterable[int] = (),
        step_batch: int | None = None,
    ) -> FederatedObjective:
        """Open a job over all nodes, over all except some, or over some only.

        Args:
            forget: The forget set.
            weight_decay: lambda.
            without: Nodes that do not take part.
            only: The nodes that take part; all where it is empty.
            step_batch: The size of the batches in training, where nodes are weighted by their
                numbers of steps (questions/step_weights.py); None where every example counts once.

        Returns:
            The job, before its first round.

        Raises:
            ForgetSetError: A node of ``only`` is not enrolled.
        """
        chosen = (set(only) or set(self.nodes)) - set(without)
        if absent := sorted(chosen - set(self.nodes)):
            raise ForgetSetError(
                f"forget: {listed('node', map(str, absent))} must be asked and is not enrolled; "
                "enrol it, or take gradient = 'recorded' or 'retained', which ask only nodes that "
                "stay, or record its summaries (policy = 'stored') while it is there"
            )
        return FederatedObjective(
            self.transport,
            tuple(sorted(chosen)),
            forget,
            weight_decay=weight_decay,
            meters=self.meters,
            progress=self.progress,
            deadline_s=self.deadline_s,
            journal=self.journal.job() if self.journal else None,
            state=self.state,
            batch_size=self.batch_size,
            step_batch=step_batch,
        )

    def fit(
        self,
        initial: Tensor,
        settings: TrainingSettings,
        *,
        seed: int | None = None,
        without: ForgetSet | None = None,
        record: Iterable[Recordable] = (),
        label: str = "training",
    ) -> TrainedModel:
        """Train a model from its initial weights.

        Args:
            initial: The initial weights w0, shape (d,).
            settings: The rounds, rates and weight decay.
            seed: Seed of the order of the examples, instead of the settings' own.
            without: The forget set, on which no node trains, for a retrained model.
            record: The recordables to be recorded, while training runs or when it ends.
            label: Label of the progress bar.

        Returns:
            The model, with its initial weights, its settings and its recordings.

        Raises:
            InputError: The initial weights are not a vector, or belong to another model.
        """
        self._require_start(initial)
        order = settings.seed if seed is None else seed
        plan = TrainingPlan(settings, settings.rounds, seed=order, without=without)
        wanted = list(dict.fromkeys(record))
        if settings.solver != "averaging":
            return self._fit_head(initial, plan, wanted, label)
        observers = {item: item.observer() for item in wanted if isinstance(item, TrainingObserver)}

        def on_local(number: int, before: Tensor, local: Mapping[int, LocalResult]) -> None:
            for observer in observers.values():
                observer.on_round(number, before, local)

        collectors = {
            item: item.collect(settings.rounds)
            for item in wanted
            if isinstance(item, WeightsObserver)
        }

        def on_round(number: int, weights: Tensor) -> None:
            for collector in collectors.values():
                collector.on_round(number, weights)

        weights = self.train(
            initial,
            plan,
            label=label,
            on_round=on_round,
            on_local=on_local if observers else None,
        )
        seen: dict[Recordable, Any] = {item: one.collected() for item, one in observers.items()}
        seen |= {item: one.collected() for item, one in collectors.items()}
        observed = {item: Recorded(value, Meter().stopped()) for item, value in seen.items()}
        return self.record(TrainedModel(weights, initial, settings, observed), wanted)

    def _fit_head(
        self, initial: Tensor, plan: TrainingPlan, wanted: Sequence[Recordable], label: str
    ) -> TrainedModel:
        settings = plan.settings
        if any(isinstance(item, TrainingObserver) for item in wanted):
            raise InputError(
                f"training: solver = {settings.solver!r} has no rounds of averaging, which a "
                "method wants to observe; leave fed-eraser and its like out, or take "
                "solver = 'averaging'"
            )
        with self.measure() as meter:
            fit = fit_head(
                self, initial, settings, seed=plan.seed, without=plan.without, label=label
            )
            spent = meter.stopped()
        weights = to_flat(head_of(self.layout, settings), fit.solution.weights, initial)
        recorded: dict[Recordable, Recorded] = {FittedHead(): Recorded(fit, spent)}
        for item in wanted:
            if isinstance(item, WeightsObserver):  # there are no rounds of averaging
                nothing = item.collect(settings.rounds).collected()
                recorded[item] = Recorded(nothing, Meter().stopped())
        return self.record(TrainedModel(weights, initial, settings, recorded), wanted)

    def _require_start(self, initial: Tensor) -> None:
        require_vector("initial", initial)
        if self.layout is not None and len(initial) != self.layout.dimension:
            raise InputError(
                f"training: initial weights are {len(initial)} numbers, the model has "
                f"{self.layout.dimension} trainable parameters; give weights of this model, as "
                "flatten(model) returns them"
            )

    def train(
        self,
        start: Tensor,
        plan: TrainingPlan,
        *,
        label: str,
        on_round: OnRound | None = None,
        on_local: OnLocal | None = None,
    ) -> Tensor:
        """Run federated averaging from weights (d,).

        With a journal, training resumes after the last round stored there, unless ``on_local`` is
        given, since the results of single nodes are not stored.

        Args:
            start: Weights before the first round.
            plan: The training plan.
            label: Label of the progress bar.
            on_round: Called after every round that is run, with its number and the weights.
            on_local: Called with the nodes' results before they are averaged.

        Returns:
            The weights after the last round, shape (d,).
        """

        def after_round(number: int, weights: Tensor) -> None:
            self.progress.advance()
            if on_round is not None:
                on_round(number, weights)

        with self.progress.piece(label, plan.rounds):
            if self.journal is None or on_local is not None:
                return self.trainer.train(start, plan, after_round, on_local)
            return self._resume(self.journal.training(start, plan), start, plan, after_round)

    def _resume(
        self, journal: TrainingJournal, start: Tensor, plan: TrainingPlan, on_round: OnRound
    ) -> Tensor:
        done = journal.find()
        finished, before = 0, Spent(0, 0, 0, 0.0)
        if done is not None:
            finished, before, start = done.rounds, done.spent, done.weights
            before.count(self.meters)
            for _ in range(finished):
                self.progress.advance()
        left = replace(plan, rounds=plan.rounds - finished, first_round=plan.first_round + finished)
        with self.meters.measure() as meter:

            def store(number: int, weights: Tensor) -> None:
                rounds = number - plan.first_round + 1
                journal.keep(KeptTraining(rounds, weights, before + Spent.of(meter)))
                on_round(number, weights)

            return self.trainer.train(start, left, store)

    def train_apart(self, start: Tensor, plan: TrainingPlan) -> dict[int, LocalResult]:
        """Run one round of training and return the result of each node, without averaging.

        Args:
            start: Weights (d,) from which every node starts.
            plan: The training plan, of which the first round is run.

        Returns:
            The results by node, ascending.
        """
        (results,) = self.train_roles(start, plan)
        return results

    def train_roles(self, start: Tensor, *plans: TrainingPlan) -> list[dict[int, LocalResult]]:
        """Run one round in which nodes train by several plans, without averaging.

        The plans begin at the same weights and do not depend on each other, so that they count
        as one broadcast, in which a node is sent each plan under which it has examples.

        Args:
            start: Weights (d,) from which every node starts.
            plans: The training plans, of each of which the first round is run.

        Returns:
            For each plan the results by node, ascending.
        """
        found: list[dict[int, LocalResult]] = []
        with self.meters.one_round():
            for plan in plans:
                results: dict[int, LocalResult] = {}

                def collect(
                    number: int,
                    before: Tensor,
                    local: Mapping[int, LocalResult],
                    into: dict[int, LocalResult] = results,
                ) -> None:
                    into.update(local)

                self.trainer.train(start, replace(plan, rounds=1), lambda *_: None, collect)
                found.append(dict(sorted(results.items())))
        self.progress.advance()
        return found

    @contextmanager
    def measure(self) -> Iterator[Meter]:
        """Count the cost of all work inside the block."""
        with self.meters.measure() as meter:
            yield meter
