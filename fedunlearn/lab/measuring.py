"""The measurement of a run: every model is compared with the retrained ones."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from types import MappingProxyType

import torch
from torch import Tensor, nn

from fedunlearn.data.backdoor import backdoor_test, target_of
from fedunlearn.evaluation.metrics import Predictions, js_divergence
from fedunlearn.evaluation.oracles import Oracles
from fedunlearn.evaluation.relearning import relearn_epochs
from fedunlearn.lab.experiment import Experiment
from fedunlearn.lab.federations import Federations
from fedunlearn.lab.foreign_model import ForeignModel
from fedunlearn.lab.model_outputs import outputs_of
from fedunlearn.lab.predictions import collect_predictions
from fedunlearn.lab.stages import FittedModel, Replica, RequestOutcome
from fedunlearn.named_errors import by_name
from fedunlearn.networks import build_model
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.reporting.forget_set_predictions import ForgetSetPredictions
from fedunlearn.reporting.results import (
    CurvePoint,
    Environment,
    Floor,
    ForgetSetResults,
    MethodResults,
    Metrics,
    RequestResults,
    Results,
    RetrainedModelResults,
    Spent,
    TrainedModelResults,
)
from fedunlearn.risk.objective import EmpiricalRisk
from fedunlearn.risk.task import Examples
from fedunlearn.vectors import norm

TRAINED, RETRAINED = "trained", "retrained"


@dataclass(frozen=True, eq=False)
class Measured:
    """The results of a run, with the predictions that its report shows.

    Attributes:
        results: The results.
        predictions: Predictions on the forget set, one entry a request; empty where the results
            were read from a store.
    """

    results: Results
    predictions: tuple[ForgetSetPredictions, ...]


def measure(
    experiment: Experiment,
    replicas: Sequence[Replica],
    oracles: Sequence[Sequence[FittedModel]],
    environment: Environment,
    foreign: Mapping[str, ForeignModel] = MappingProxyType({}),
) -> Measured:
    """Measure every model of a run against the retrained ones.

    Args:
        experiment: The scenario.
        replicas: The trained models with the outcomes of the methods, the scenario's own first.
        oracles: For each request the models retrained without everything that has left by then.
            Each shares initialisation and order with the replica in its place, those after the
            replicas with none.
        environment: The software and hardware.
        foreign: Models that other code unlearned, by the names under which they are shown.

    Returns:
        Results and predictions.
    """
    workspace = build_model(experiment.task.model)
    requests: list[RequestResults] = []
    predictions: list[ForgetSetPredictions] = []
    for index in range(len(experiment.requests)):
        measuring = _Request(experiment, workspace, index, replicas, oracles[index])
        request, shown = measuring.measured(foreign)
        requests.append(request)
        predictions.append(shown)
    results = Results(
        fedunlearn=version("fedunlearn"),
        name=experiment.name,
        scenario=experiment.as_run(),
        names=experiment.names(),
        environment=environment,
        requests=tuple(requests),
    )
    return Measured(results, tuple(predictions))


def environment_of(federations: Federations) -> Environment:
    """Return the software and hardware of this process and of its federations."""
    return Environment(
        transport=federations.transport,
        python=platform.python_version(),
        torch=str(torch.__version__),
        flwr=version("flwr"),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
    )


class _Request:
    """Measures the models of one request."""

    def __init__(
        self,
        experiment: Experiment,
        workspace: nn.Module,
        index: int,
        replicas: Sequence[Replica],
        oracles: Sequence[FittedModel],
    ) -> None:
        self._task = experiment.task
        self._scenario = experiment.scenario
        self._workspace = workspace
        self._forget: ForgetSet = experiment.requests[index]
        self._parts = experiment.parts[index]
        self._trained = [replica.trained for replica in replicas]
        self._outcomes: dict[str, list[RequestOutcome]] = {
            name: [replica.outcomes[name][index] for replica in replicas]
            for name in experiment.methods
        }
        self._retrained = oracles[0]
        predicted = [self._predict(oracle.weights) for oracle in oracles]
        self._oracles = Oracles(predicted, self._parts, len(replicas))

    def measured(
        self, foreign: Mapping[str, ForeignModel]
    ) -> tuple[RequestResults, ForgetSetPredictions]:
        """Return the request's entry of the results, and predictions for the report."""
        shown: dict[str, Predictions] = {}
        trained, shown[TRAINED] = self._several(self._trained)
        methods: dict[str, MethodResults] = {}
        for name, outcomes in self._outcomes.items():
            methods[name], shown[name] = self._method(outcomes)
        for name, model in foreign.items():
            with model.loaded_into(self._workspace):
                metrics, shown[name] = self._several([model.weights])
            methods[name] = MethodResults.model_validate(metrics | model.described())
        shown[RETRAINED] = self._oracles.first
        retrained = self._one(self._retrained.weights, self._oracles.first)
        request = RequestResults(
            forget=self._forget_set(),
            floor=Floor.model_validate(self._oracles.floor()),
            shadow_oracles=self._oracles.shadows,
            klom_oracles=self._oracles.klom_references,
            trained=TrainedModelResults.model_validate(
                trained | {"gradient_norm": self._gradient_norm()}
            ),
            retrained=RetrainedModelResults.model_validate(
                retrained | self._oracles.own_distribution() | asdict(self._retrained.cost)
            ),
            methods=methods,
        )
        return request, collect_predictions(shown, self._parts, self._task.split.labels)

    def _method(self, outcomes: Sequence[RequestOutcome]) -> tuple[MethodResults, Predictions]:
        """Measure a method's outcome on every replica; cost, status and details are the first's."""
        first, names = outcomes[0], self._task.split.node_names
        metrics, predictions = self._several([outcome.weights for outcome in outcomes])
        before = [o.before_recovery for o in outcomes if o.before_recovery is not None]
        recovered = Metrics.model_validate(self._several(before)[0]) if before else None
        details = dict(first.details)
        if isinstance(dropped := details.get("dropped"), dict):
            details["dropped"] = {
                names[int(node)]: by_name(str(reason), names) for node, reason in dropped.items()
            }
        own: dict[str, object] = {
            "status": by_name(first.status, names),
            "claim": first.claim,
            "recording": first.recording and Spent(**asdict(first.recording)),
            "before_recovery": recovered,
            "curve": tuple(
                CurvePoint(rounds=rounds, forget_js=self._forget_js(probabilities))
                for rounds, probabilities in first.path
            )
            or None,
            "details": details,
        }
        return MethodResults.model_validate(metrics | asdict(first.cost) | own), predictions

    def _several(self, models: Sequence[Tensor]) -> tuple[dict[str, float], Predictions]:
        """Measure the first of the models, and the distribution of all of them."""
        predicted = [self._predict(weights) for weights in models]
        metrics = self._one(models[0], predicted[0])
        return metrics | self._oracles.compare_distribution(predicted), predicted[0]

    def _one(self, weights: Tensor, predictions: Predictions) -> dict[str, float]:
        metrics = self._oracles.compare(predictions) | {
            "update_norm": _distance(weights, self._trained[0]),
            "weight_distance": _distance(weights, self._retrained.weights),
        }
        if self._triggered is not None:
            inputs, target = self._triggered
            fooled = self._outputs(weights, inputs).argmax(1) == target
            metrics["backdoor_success"] = float(fooled.double().mean())
        if self._scenario.evaluation.relearn:
            risk, wanted = self._to_relearn
            metrics["relearn_epochs"] = relearn_epochs(
                weights, risk, self._scenario.training, wanted
            )
        return metrics

    @cached_property
    def _triggered(self) -> tuple[Tensor, int] | None:
        """Test images with the backdoor's trigger, and the backdoor's class; None without one."""
        backdoor = self._scenario.data.backdoor
        if backdoor is None:
            return None
        split = self._task.split
        return backdoor_test(split, backdoor), target_of(split, backdoor)

    @cached_property
    def _to_relearn(self) -> tuple[EmpiricalRisk, float]:
        """The risk on the forget set, and the trained model's mean loss there."""
        risk = self._risk(self._parts.forget)
        return risk, risk.value(self._trained[0]) / len(risk)

    def _forget_set(self) -> ForgetSetResults:
        forget, parts, split = self._forget, self._parts, self._task.split
        nodes = tuple(split.node_names[node] for node in sorted(forget.named))
        figures = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in forget.figures(split.labels).items()
        }
        return ForgetSetResults.model_validate(
            figures
            | {
                "kind": forget.kind,
                "nodes": nodes or None,
                "description": forget.described(split.node_names, split.labels),
                "forgotten_examples": len(parts.forget[0]),
                "retained_examples": len(parts.retain[0]),
            }
        )

    def _predict(self, weights: Tensor) -> Predictions:
        return Predictions.at(lambda inputs: self._outputs(weights, inputs), self._parts)

    def _outputs(self, weights: Tensor, inputs: Tensor) -> Tensor:
        return outputs_of(self._workspace, weights, inputs)

    def _forget_js(self, probabilities: Tensor) -> float:
        return js_divergence(probabilities, self._oracles.first.of_part["forget"])

    def _gradient_norm(self) -> float:
        """The norm of grad F at w^ over all examples: how far training was from converged."""
        inputs, targets = (
            torch.cat([forget, retain])
            for forget, retain in zip(self._parts.forget, self._parts.retain, strict=True)
        )
        risk, trained = self._risk((inputs, targets)), self._trained[0]
        mean = risk.gradient(trained) / len(risk)
        return norm(mean + self._scenario.training.weight_decay * trained)

    def _risk(self, examples: Examples) -> EmpiricalRisk:
        return EmpiricalRisk(self._workspace, self._task.loss, examples)


def _distance(left: Tensor, right: Tensor) -> float:
    return norm(left.double() - right.double())
