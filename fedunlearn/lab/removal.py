"""The work inside a federation: train, let methods answer the requests, retrain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from fedunlearn.errors import NonFiniteError
from fedunlearn.federation.accounting import Cost
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import Recordable, Recorded, TrainedModel, TrainingObserver
from fedunlearn.federation.training import OnRound
from fedunlearn.lab.experiment import Experiment
from fedunlearn.parameters import initial_weights, require_finite
from fedunlearn.unlearning.faults import unlearn
from fedunlearn.unlearning.method import Claim, Unlearned, UnlearningMethod
from fedunlearn.unlearning.recovery import recover

Path = tuple[tuple[int, Tensor], ...]


@dataclass(frozen=True, eq=False)
class Removal:
    """What a method made of one request.

    Attributes:
        weights: The result (d,), after recovery where there is any.
        before_recovery: Weights (d,) before it; None without recovery.
        status: Of the method.
        claim: Likewise.
        details: Likewise.
        cost: With recovery.
        compute: Gradient equivalents without recovery: what other methods may spend.
        recording: What recording for it took; None where nothing was recorded.
        path: Rounds spent and weights (d,) then, recovery last.
    """

    weights: Tensor
    before_recovery: Tensor | None
    status: str
    claim: str
    details: Mapping[str, Any]
    cost: Cost
    compute: float
    recording: Cost | None
    path: Path = field(default=())


@dataclass(frozen=True, eq=False)
class Retrained:
    """A retrained model, an oracle.

    Attributes:
        weights: Shape (d,).
        cost: Of retraining.
    """

    weights: Tensor
    cost: Cost


@dataclass(frozen=True, eq=False)
class Replica:
    """A model and what every method made of it; the scenario's own, or one of another seed.

    Attributes:
        trained: Weights (d,) before the first request.
        removals: By method, one for each request.
    """

    trained: Tensor
    removals: Mapping[str, tuple[Removal, ...]]


def train(
    experiment: Experiment, federation: Federation, record: Sequence[Recordable], seed: int
) -> TrainedModel:
    """Train the model that is to forget, and record what methods need.

    Args:
        experiment: What to train.
        federation: The nodes.
        record: What to record.
        seed: Of initialisation and order.

    Returns:
        The model.
    """
    initial = initial_weights(experiment.task.model, seed)
    return federation.fit(initial, experiment.training(seed), record=record)


def retrain(
    experiment: Experiment, federation: Federation, request: int, seed: int, label: str
) -> Retrained:
    """Train a model without all that has left by a request.

    Args:
        experiment: What to train.
        federation: The nodes.
        request: Its index.
        seed: Of initialisation and order; training's own for the first oracle.
        label: What the progress bar says.

    Returns:
        The oracle.
    """
    with federation.measure() as meter:
        oracle = federation.fit(
            initial_weights(experiment.task.model, seed),
            experiment.training(seed),
            without=experiment.requests[request],
            label=label,
        )
        cost = meter.cost(experiment.retained[request])
    return Retrained(oracle.weights, cost)


def remove(
    experiment: Experiment,
    federation: Federation,
    trained: TrainedModel,
    name: str,
    budgets: Sequence[float] | None,
) -> tuple[Removal, ...]:
    """Let one method answer every request, one after the other.

    Args:
        experiment: The requests.
        federation: The nodes.
        trained: The model before the first request.
        name: Of the method.
        budgets: Client compute for each request, for methods that adapt to it; None for the first.

    Returns:
        What it made of each request.
    """
    method = experiment.methods[name]
    removals: list[Removal] = []
    for index in range(len(experiment.requests)):
        sized = method
        if budgets is not None:
            sized = method.at_compute(budgets[index], trained.settings.local_epochs)
        removal, trained = _answer(experiment, federation, trained, sized, name, index)
        removals.append(removal)
    return tuple(removals)


def _answer(
    experiment: Experiment,
    federation: Federation,
    trained: TrainedModel,
    sized: UnlearningMethod[Any],
    name: str,
    index: int,
) -> tuple[Removal, TrainedModel]:
    """Let a method answer one request.

    A method that diverges leaves the model as it was, and its status says so: the others of a
    comparison go on.

    Returns:
        What it made of the request, and what the next one starts from.
    """
    forget, retained = experiment.requests[index], experiment.retained[index]
    path: list[tuple[int, Tensor]] = [(0, trained.weights)]
    with federation.measure() as meter:
        try:
            unlearned = unlearn(sized, trained, federation, forget, on_round=_into(path))
            compute = meter.cost(retained).gradient_equivalents
            recovered = recover(
                federation,
                trained,
                forget,
                unlearned.weights,
                experiment.scenario.unlearning.recovery_rounds,
                name=name,
                path=path,
            )
            require_finite(recovered, name)
        except NonFiniteError as error:
            unlearned = _diverged(trained, meter.rounds, error)
            compute = meter.cost(retained).gradient_equivalents
            recovered, path = unlearned.weights, path[:1]
        cost = meter.cost(retained)
    removal = Removal(
        weights=recovered,
        before_recovery=unlearned.weights if recovered is not unlearned.weights else None,
        status=unlearned.status,
        claim=unlearned.claim.value,
        details=unlearned.details,
        cost=cost,
        compute=compute,
        recording=recording_cost(sized, trained, retained),
        path=tuple(path),
    )
    return removal, unlearned.trained or _as_trained(trained, recovered)


def _diverged(trained: TrainedModel, rounds: int, error: NonFiniteError) -> Unlearned:
    return Unlearned(
        weights=trained.weights.clone(),
        status=f"diverged, the model is left as it was: {error}",
        claim=Claim.EMPIRICAL,
        details={"rounds": rounds},
        trained=trained,
    )


def recording_cost(
    method: UnlearningMethod[Any], trained: TrainedModel, retained: int
) -> Cost | None:
    """Return what was spent to record for a method; None where nothing was asked for it."""
    spent = [
        trained.recorded[item].spent
        for item in method.to_record()
        if not isinstance(item, TrainingObserver)  # training told it
    ]
    return sum(spent[1:], spent[0]).cost(retained) if spent else None


def _as_trained(trained: TrainedModel, weights: Tensor) -> TrainedModel:
    """Return a model after a removal as the next one finds it.

    What was recorded of the model before says nothing of this one; the history of its training
    stays what it was.
    """
    kept: dict[Recordable, Recorded] = {
        item: value
        for item, value in trained.recorded.items()
        if isinstance(item, TrainingObserver)
    }
    return replace(trained, weights=weights, recorded=kept)


def _into(path: list[tuple[int, Tensor]]) -> OnRound:
    return lambda rounds, weights: path.append((rounds, weights))


Unlearner = Callable[[str, Sequence[float] | None], tuple[Removal, ...]]


def remove_by_all(
    methods: Sequence[str], unlearn: Unlearner, budgets: Sequence[float] | None = None
) -> dict[str, tuple[Removal, ...]]:
    """Let every method answer; the first sets the client compute of those that adapt to it.

    Args:
        methods: Their names.
        unlearn: Runs one of them, with the budgets of the requests.
        budgets: That the first method set on another model, and that hold here too.

    Returns:
        The removals of each method.
    """
    first, *others = methods
    removals = {first: unlearn(first, None)}
    if budgets is None:
        budgets = [removal.compute for removal in removals[first]]
    return removals | {name: unlearn(name, budgets) for name in others}
