"""From weights to results: every model held against the retrained ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from fedunlearn.evaluation.evidence import Evidence, gather_evidence
from fedunlearn.evaluation.metrics import Predictions, compare, floor, js_divergence
from fedunlearn.experiments.experiment import Experiment
from fedunlearn.experiments.removal import Removal, Retrained
from fedunlearn.federation.forget import Kind
from fedunlearn.parameters import load
from fedunlearn.risk.objective import EmpiricalRisk
from fedunlearn.vectors import norm

TRAINED, RETRAINED = "trained", "retrained"
CHUNK = 2048


class Measuring:
    """Measures the models of one experiment."""

    def __init__(self, experiment: Experiment) -> None:
        """Take the experiment, whose data the measures are taken on."""
        self.experiment = experiment
        self._workspace = experiment.task.model()

    def request(
        self,
        index: int,
        trained: Tensor,
        removals: Mapping[str, Removal],
        oracles: Sequence[Retrained],
    ) -> tuple[dict[str, Any], Evidence]:
        """Measure everything that belongs to one request.

        Args:
            index: Of the request.
            trained: Weights (d,) of the model before the first request.
            removals: What each method made of it.
            oracles: Retrained without all that has left by then; the first shares initialisation
                and order with training.

        Returns:
            Its entry of results.json, and predictions for the report.
        """
        parts = self.experiment.parts[index]
        predicted = [self._predict(index, oracle.weights) for oracle in oracles]

        def measures(weights: Tensor, of: Predictions | None = None) -> dict[str, float]:
            predictions = of or self._predict(index, weights)
            return compare(predictions, predicted[0], parts) | {
                "update_norm": _distance(weights, trained),
                "weight_distance": _distance(weights, oracles[0].weights),
            }

        def forget_js(weights: Tensor) -> float:
            outputs = self._outputs(weights, parts.forget[0]).double().softmax(1)
            return js_divergence(outputs, predicted[0].of_part["forget"])

        methods = {name: _entry(removal, measures, forget_js) for name, removal in removals.items()}
        shown = {
            TRAINED: self._predict(index, trained),
            **{name: self._predict(index, removal.weights) for name, removal in removals.items()},
            RETRAINED: predicted[0],
        }
        result = {
            "forget": self._describe(index),
            "floor": floor(predicted),
            TRAINED: measures(trained) | {"gradient_norm": self._gradient_norm(index, trained)},
            RETRAINED: measures(oracles[0].weights) | asdict(oracles[0].cost),
            "methods": methods,
        }
        return result, gather_evidence(shown, parts)

    def _describe(self, index: int) -> dict[str, Any]:
        forget, parts = self.experiment.requests[index], self.experiment.parts[index]
        described: dict[str, Any] = {"kind": forget.kind.value}
        match forget.kind:
            case Kind.SAMPLES:
                described |= {"fraction": forget.fraction, "seed": forget.seed}
            case Kind.CLASS:
                labels = sorted(forget.labels)
                described["class"] = labels[0] if len(labels) == 1 else labels
        if forget.named:
            described["nodes"] = sorted(forget.named)
        return described | {
            "description": str(forget),
            "forgotten_examples": len(parts.forget[0]),
            "retained_examples": len(parts.retain[0]),
        }

    def _predict(self, index: int, weights: Tensor) -> Predictions:
        parts = self.experiment.parts[index]
        return Predictions.at(lambda inputs: self._outputs(weights, inputs), parts)

    def _outputs(self, weights: Tensor, inputs: Tensor) -> Tensor:
        load(self._workspace, weights)
        with torch.no_grad():
            return torch.cat([self._workspace(chunk) for chunk in inputs.split(CHUNK)])

    def _gradient_norm(self, index: int, trained: Tensor) -> float:
        """The norm of grad F at w^ over all examples: how far training was from converged."""
        parts, task = self.experiment.parts[index], self.experiment.task
        inputs, targets = (
            torch.cat([forget, retain])
            for forget, retain in zip(parts.forget, parts.retain, strict=True)
        )
        risk = EmpiricalRisk(self._workspace, task.loss, (inputs, targets))
        mean = risk.gradient(trained) / len(risk)
        return norm(mean + self.experiment.scenario.training.weight_decay * trained)


def _entry(
    removal: Removal,
    measures: Callable[[Tensor], dict[str, float]],
    forget_js: Callable[[Tensor], float],
) -> dict[str, Any]:
    entry: dict[str, Any] = measures(removal.weights) | asdict(removal.cost)
    entry |= {"status": removal.status, "claim": removal.claim}
    if removal.recording is not None:
        entry["recording"] = asdict(removal.recording)
    if removal.before_recovery is not None:
        entry["before_recovery"] = measures(removal.before_recovery)
    if removal.path:
        entry["curve"] = [
            {"rounds": rounds, "forget_js": forget_js(weights)} for rounds, weights in removal.path
        ]
    return entry | {"details": dict(removal.details)}


def _distance(left: Tensor, right: Tensor) -> float:
    return norm(left.double() - right.double())
