"""The stages of a run inside a federation: train, unlearn by each method, retrain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import JsonValue
from torch import Tensor

from fedunlearn.errors import NonFiniteError
from fedunlearn.federation.accounting import Cost
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import (
    Recordable,
    Recorded,
    TrainedModel,
    TrainingObserver,
    WeightsObserver,
)
from fedunlearn.federation.training import OnRound
from fedunlearn.lab.experiment import Experiment
from fedunlearn.lab.model_outputs import probabilities_of
from fedunlearn.networks import build_model
from fedunlearn.parameters import initial_weights, require_finite
from fedunlearn.unlearning.faults import unlearn
from fedunlearn.unlearning.method import Claim, Unlearned, UnlearningMethod
from fedunlearn.unlearning.recovery import recover

Path = tuple[tuple[int, Tensor], ...]


@dataclass(frozen=True, eq=False)
class RequestOutcome:
    """The outcome of a method on one request.

    Attributes:
        weights: The result (d,), after recovery rounds where there are any.
        before_recovery: Weights (d,) before them; None without recovery rounds.
        status: The status that the method reports.
        claim: The claim that the method makes.
        details: What the method reports of its own computation.
        cost: The cost, recovery rounds included.
        compute: Gradient equivalents without recovery rounds: the budget of other methods.
        recording: The cost of recording for the method; None where nothing was recorded.
        path: Rounds spent, and the model's probabilities (examples, classes) on the forget set
            then, recovery rounds last.
    """

    weights: Tensor
    before_recovery: Tensor | None
    status: str
    claim: str
    details: Mapping[str, JsonValue]
    cost: Cost
    compute: float
    recording: Cost | None
    path: Path


@dataclass(frozen=True, eq=False)
class FittedModel:
    """A model as training or retraining gave it.

    Attributes:
        weights: Shape (d,).
        cost: The cost of training.
    """

    weights: Tensor
    cost: Cost


@dataclass(frozen=True, eq=False)
class Replica:
    """A trained model and the outcomes of every method on it; the scenario's, or another seed's.

    Attributes:
        trained: Weights (d,) before the first request.
        outcomes: By method, one for each request.
    """

    trained: Tensor
    outcomes: Mapping[str, tuple[RequestOutcome, ...]]


def train(
    experiment: Experiment, federation: Federation, record: Sequence[Recordable], seed: int
) -> TrainedModel:
    """Train the model that is to forget, and record what methods need.

    Args:
        experiment: The model and its training.
        federation: The nodes.
        record: What to record.
        seed: Seed of initialisation and order.

    Returns:
        The model.
    """
    initial = initial_weights(experiment.task.model, seed)
    return federation.fit(initial, experiment.training(seed), record=record)


def retrain(
    experiment: Experiment, federation: Federation, request: int, seed: int, label: str
) -> FittedModel:
    """Train a model without everything that has left by a request.

    Args:
        experiment: The model and its training.
        federation: The nodes.
        request: Index of the request.
        seed: Seed of initialisation and order; training's own for the first oracle.
        label: Text of the progress bar.

    Returns:
        The retrained model.
    """
    with federation.measure() as meter:
        oracle = federation.fit(
            initial_weights(experiment.task.model, seed),
            experiment.training(seed),
            without=experiment.requests[request],
            label=label,
        )
        cost = meter.cost(experiment.retained[request])
    return FittedModel(oracle.weights, cost)


def unlearn_requests(
    experiment: Experiment,
    federation: Federation,
    trained: TrainedModel,
    name: str,
    budgets: Sequence[float] | None,
) -> tuple[RequestOutcome, ...]:
    """Let one method remove every request, one after the other.

    Args:
        experiment: The requests.
        federation: The nodes.
        trained: The model before the first request.
        name: Name of the method.
        budgets: Client compute for each request, for methods that adapt to it; None for the first
            method, which sets the budgets.

    Returns:
        The outcome of each request.
    """
    method = experiment.methods[name]
    outcomes: list[RequestOutcome] = []
    for index in range(len(experiment.requests)):
        sized = method
        if budgets is not None:
            sized = method.at_compute(budgets[index], trained.settings.local_epochs)
        outcome, trained = _unlearn_request(experiment, federation, trained, sized, name, index)
        outcomes.append(outcome)
    return tuple(outcomes)


def _unlearn_request(
    experiment: Experiment,
    federation: Federation,
    trained: TrainedModel,
    sized: UnlearningMethod[Any],
    name: str,
    index: int,
) -> tuple[RequestOutcome, TrainedModel]:
    """Let a method remove one request.

    A method that diverges leaves the model unchanged, and its status says so: the other methods
    of the comparison still run.

    Returns:
        The outcome, and the model that the next request starts from.
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
    outcome = RequestOutcome(
        weights=recovered,
        before_recovery=unlearned.weights if recovered is not unlearned.weights else None,
        status=unlearned.status,
        claim=unlearned.claim.value,
        details=unlearned.details,
        cost=cost,
        compute=compute,
        recording=_recording_cost(sized, trained, retained),
        path=_predictions_along(experiment, index, path),
    )
    return outcome, unlearned.trained or _as_trained(trained, recovered)


def _predictions_along(
    experiment: Experiment, index: int, path: Sequence[tuple[int, Tensor]]
) -> Path:
    workspace = build_model(experiment.task.model)
    inputs, _ = experiment.parts[index].forget
    return tuple((rounds, probabilities_of(workspace, weights, inputs)) for rounds, weights in path)


def _diverged(trained: TrainedModel, rounds: int, error: NonFiniteError) -> Unlearned:
    return Unlearned(
        weights=trained.weights.clone(),
        status=f"diverged, the model is left as it was: {error}",
        claim=Claim.EMPIRICAL,
        details={"rounds": rounds},
        trained=trained,
    )


def _recording_cost(
    method: UnlearningMethod[Any], trained: TrainedModel, retained: int
) -> Cost | None:
    """Return the cost of recording for a method; None where nothing was recorded for it."""
    spent = [
        trained.recorded[item].spent
        for item in method.to_record()
        # Observers record during training, at no cost.
        if item in trained.recorded and not isinstance(item, TrainingObserver | WeightsObserver)
    ]
    return sum(spent[1:], spent[0]).cost(retained) if spent else None


def _as_trained(trained: TrainedModel, weights: Tensor) -> TrainedModel:
    """Return a model after a removal as the next removal starts from it.

    A recording of the model before is not valid for this one; the history of training is.
    """
    history: dict[Recordable, Recorded] = {
        item: value
        for item, value in trained.recorded.items()
        if isinstance(item, TrainingObserver)
    }
    return replace(trained, weights=weights, recorded=history)


def _into(path: list[tuple[int, Tensor]]) -> OnRound:
    return lambda rounds, weights: path.append((rounds, weights))
