"""Collects what the report shows of single predictions; simulations only, since it shows data."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedunlearn.evaluation.metrics import Parts, Predictions
from fedunlearn.names import Names
from fedunlearn.reporting.evidence import Evidence, ForgottenExample

SHOWN = 8


def gather_evidence(
    models: Mapping[str, Predictions], parts: Parts, names: Names | None = None
) -> Evidence:
    """Collect predictions on the forget set.

    Args:
        models: By name; ``trained`` and ``retrained`` among them.
        parts: Where the predictions were made.
        names: Of the classes.

    Returns:
        Mean predictions of each label, and the examples that tell most.
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
        ForgottenExample(
            image=_grey(inputs[index]),
            target=int(targets[index]),
            probabilities={name: rows[index] for name, rows in predictions.items()},
        )
        for index in (firsts + rest)[:SHOWN]
    )
    counts = tuple(int((targets == label).sum()) for label in labels)
    return Evidence(tuple(labels), counts, means, examples, names.texts if names else ())


def _grey(image: Tensor) -> Tensor | None:
    return image.mean(0) if image.ndim == 3 else None
