"""Unlearning by weight negation (NoT): the first layer changes its sign, then training continues.

Source: Khalil, Feng, Qi, Nakov, "NoT: Federated Unlearning via Weight Negation", CVPR 2025,
algorithm 1. Negating a layer breaks the fit of the layers above it, as far as this is possible
while every norm stays the same; training on the retain set restores what that set can teach. The
method needs the nodes that stay, no history, and nothing from the nodes that leave.

This implementation negates the weights and biases of the first layer of the model, the paper's
choice for convolutional networks. It trains with the schedule of federated averaging, which starts
again.
"""

from __future__ import annotations

from typing import ClassVar

from typing_extensions import override

from fedunlearn.errors import TaskError
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.settings import Settings
from fedunlearn.unlearning.continued_training import (
    ContinuedTraining,
    ContinuedTrainingSettings,
    StartingPoint,
)
from fedunlearn.unlearning.method import Grid


class WeightNegationSettings(ContinuedTrainingSettings):
    """Settings of not."""


class WeightNegation(ContinuedTraining[WeightNegationSettings]):
    """Training on the retain set after the first layer's sign is changed."""

    name: ClassVar[str] = "not"
    settings_type: ClassVar[type[Settings]] = WeightNegationSettings
    grid: ClassVar[Grid] = {"learning-rate": (None, 0.02, 0.05, 0.1, 0.2, 0.3, 0.6, 0.9)}

    @override
    def starting_point(
        self, trained: TrainedModel, federation: Federation, forget: ForgetSet
    ) -> StartingPoint:
        del forget
        if federation.layout is None:
            raise TaskError(
                "not: the federation does not know the model's layers; give it a layout"
            )
        weights = trained.weights.clone()
        parts = federation.layout.unflatten(weights)
        layer = _layer(federation.layout.names[0])
        for name, part in parts.items():
            if _layer(name) == layer:
                part.neg_()  # a view of the weights
        return StartingPoint(weights, 1, details={"layer": layer})


def _layer(name: str) -> str:
    return name.rpartition(".")[0]
