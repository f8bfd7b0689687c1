"""From weights to results: every model held against the retrained ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from fedunlearn.data.backdoor import backdoor_test, target_of
from fedunlearn.evaluation.metrics import Predictions, js_divergence
from fedunlearn.evaluation.oracles import Oracles
from fedunlearn.evaluation.relearning import relearn_epochs
from fedunlearn.lab.evidence import gather_evidence
from fedunlearn.lab.experiment import Experiment
from fedunlearn.lab.predicting import outputs_of
from fedunlearn.lab.removal import Removal, Replica, Retrained
from fedunlearn.named_errors import by_name
from fedunlearn.networks import build_model
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.reporting.evidence import Evidence
from fedunlearn.risk.objective import EmpiricalRisk
from fedunlearn.risk.task import Examples
from fedunlearn.vectors import norm

TRAINED, RETRAINED = "trained", "retrained"


class Measuring:
    """Measures the models of one experiment."""

    def __init__(self, experiment: Experiment) -> None:
        """Take the experiment, whose data the measures are taken on."""
        self.experiment = experiment
        self._workspace = build_model(experiment.task.model)

    def request(
        self, index: int, replicas: Sequence[Replica], oracles: Sequence[Retrained]
    ) -> tuple[dict[str, Any], Evidence]:
        """Measure everything that belongs to one request.

        Args:
            index: Of the request.
            replicas: The scenario's own model first.
            oracles: Retrained without all that has left by then; each shares initialisation and
                order with the replica in its place, those after them with none.

        Returns:
            Its entry of results.json, and predictions for the report.
        """
        return _Request(self.experiment, self._workspace, index, replicas, oracles).measured()


class _Request:
    """Measures the models of one request."""

    def __init__(
        self,
        experiment: Experiment,
        workspace: nn.Module,
        index: int,
        replicas: Sequence[Replica],
        oracles: Sequence[Retrained],
    ) -> None:
        self._task = experiment.task
        self._scenario = experiment.scenario
        self._workspace = workspace
        self._forget: ForgetSet = experiment.requests[index]
        self._parts = experiment.parts[index]
        self._trained = [replica.trained for replica in replicas]
        self._removals: dict[str, list[Removal]] = {
            name: [replica.removals[name][index] for replica in replicas]
            for name in experiment.methods
        }
        self._retrained = oracles[0]
        predicted = [self._predict(oracle.weights) for oracle in oracles]
        self._oracles = Oracles(predicted, self._parts, len(replicas))

    def measured(self) -> tuple[dict[str, Any], Evidence]:
        """Return the entry of results.json, and predictions for the report."""
        shown: dict[str, Predictions] = {}
        trained, shown[TRAINED] = self._several(self._trained)
        methods: dict[str, Any] = {}
        for name, removals in self._removals.items():
            methods[name], shown[name] = self._entry(removals)
        shown[RETRAINED] = self._oracles.first
        retrained = self._one(self._retrained.weights, self._oracles.first)
        result = {
            "forget": self._described(),
            **self._oracles.described(),
            TRAINED: trained | {"gradient_norm": self._gradient_norm()},
            RETRAINED: retrained | self._oracles.own_distribution() | asdict(self._retrained.cost),
            "methods": methods,
        }
        return result, gather_evidence(shown, self._parts, self._task.split.labels)

    def _entry(self, removals: Sequence[Removal]) -> tuple[dict[str, Any], Predictions]:
        """Measure what a method made of every replica; costs and words are of the first."""
        first = removals[0]
        measures, predictions = self._several([removal.weights for removal in removals])
        entry: dict[str, Any] = measures | asdict(first.cost)
        names = self._task.split.node_names
        entry |= {"status": by_name(first.status, names), "claim": first.claim}
        if first.recording is not None:
            entry["recording"] = asdict(first.recording)
        before = [r.before_recovery for r in removals if r.before_recovery is not None]
        if before:
            entry["before_recovery"], _ = self._several(before)
        if first.path:
            entry["curve"] = [
                {"rounds": rounds, "forget_js": self._forget_js(weights)}
                for rounds, weights in first.path
            ]
        details = dict(first.details)
        if dropped := details.get("dropped"):
            details["dropped"] = {
                names[int(node)]: by_name(reason, names) for node, reason in dropped.items()
            }
        return entry | {"details": details}, predictions

    def _several(self, models: Sequence[Tensor]) -> tuple[dict[str, float], Predictions]:
        """Measure the first of the models, and how all are distributed."""
        predicted = [self._predict(weights) for weights in models]
        measures = self._one(models[0], predicted[0])
        return measures | self._oracles.compare_distribution(predicted), predicted[0]

    def _one(self, weights: Tensor, predictions: Predictions) -> dict[str, float]:
        measures = self._oracles.compare(predictions) | {
            "update_norm": _distance(weights, self._trained[0]),
            "weight_distance": _distance(weights, self._retrained.weights),
        }
        if self._triggered is not None:
            inputs, target = self._triggered
            fooled = self._outputs(weights, inputs).argmax(1) == target
            measures["backdoor_success"] = float(fooled.double().mean())
        if self._scenario.evaluation.relearn:
            risk, wanted = self._to_relearn
            measures["relearn_epochs"] = relearn_epochs(
                weights, risk, self._scenario.training, wanted
            )
        return measures

    @cached_property
    def _triggered(self) -> tuple[Tensor, int] | None:
        """Test images with the backdoor's trigger and its class, where there is a backdoor."""
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

    def _described(self) -> dict[str, Any]:
        forget, parts, split = self._forget, self._parts, self._task.split
        described = {"kind": forget.kind, **forget.figures(split.labels)}
        if forget.named:
            described["nodes"] = [split.node_names[node] for node in sorted(forget.named)]
        return described | {
            "description": forget.described(split.node_names, split.labels),
            "forgotten_examples": len(parts.forget[0]),
            "retained_examples": len(parts.retain[0]),
        }

    def _predict(self, weights: Tensor) -> Predictions:
        return Predictions.at(lambda inputs: self._outputs(weights, inputs), self._parts)

    def _outputs(self, weights: Tensor, inputs: Tensor) -> Tensor:
        return outputs_of(self._workspace, weights, inputs)

    def _forget_js(self, weights: Tensor) -> float:
        probabilities = self._outputs(weights, self._parts.forget[0]).double().softmax(1)
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
