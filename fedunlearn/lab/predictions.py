"""Collects the predictions on the forget set that the report shows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedunlearn.evaluation.metrics import Parts, Predictions
from fedunlearn.names import Names
from fedunlearn.reporting.forget_set_predictions import ExamplePredictions, ForgetSetPredictions

SHOWN = 8


def collect_predictions(
    models: Mapping[str, Predictions], parts: Parts, names: Names | None = None
) -> ForgetSetPredictions:
    """Collect predictions on the forget set.

    Args:
        models: Predictions by model name; ``trained`` and ``retrained`` are among them.
        parts: The examples on which the predictions were made.
        names: The names of the classes.

    Returns:
        Mean predictions for each class, and the examples on which the two models differ most.
    """
    inputs, targets = parts.forget
    predictions = {name: model.of_part["forget"] for name, model in models.items()}
    labels = [int(label) for label in targets.unique()]
    means = {
        name: torch.stack([rows[targets == label].mean(0) for label in labels])
        for name, rows in predictions.items()
    }
    differ = (predictions["trained"] - predictions["retrained"]).abs().sum(1)
    order = [int(index) for index in differ.argsort(descending=True, stable=True)]
    firsts = list({int(targets[index]): index for index in reversed(order)}.values())
    firsts.sort(key=order.index)
    rest = [index for index in order if index not in firsts]
    examples = tuple(
        ExamplePredictions(
            image=_grey(inputs[index]),
            target=int(targets[index]),
            probabilities={name: rows[index] for name, rows in predictions.items()},
        )
        for index in (firsts + rest)[:SHOWN]
    )
    counts = tuple(int((targets == label).sum()) for label in labels)
    return ForgetSetPredictions(
        tuple(labels), counts, means, examples, names.texts if names else ()
    )


def _grey(image: Tensor) -> Tensor | None:
    return image.mean(0) if image.ndim == 3 else None
