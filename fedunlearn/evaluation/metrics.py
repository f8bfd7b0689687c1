"""The distance of a model from the one that was trained without the forget set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedunlearn.evaluation.attacks import membership_auc
from fedunlearn.evaluation.fairness import fairness
from fedunlearn.evaluation.margins import TINY, margins
from fedunlearn.risk.task import Examples


@dataclass(frozen=True)
class Parts:
    """The examples on which metrics are computed.

    Attributes:
        forget: Examples that leave.
        retain: Examples that stay.
        test: Held-out examples; for the removal of a class, without that class.
        owners: Number of the node that holds each example that stays (n,).
    """

    forget: Examples
    retain: Examples
    test: Examples
    owners: Tensor

    def named(self) -> dict[str, Examples]:
        """Return the parts by name."""
        return {"forget": self.forget, "retain": self.retain, "test": self.test}


@dataclass(frozen=True)
class Predictions:
    """A model's class probabilities on every part: (n, classes), float64."""

    of_part: dict[str, Tensor]

    @classmethod
    def at(cls, outputs: Callable[[Tensor], Tensor], parts: Parts) -> Predictions:
        """Predict with a function from inputs to logits."""
        return cls(
            {
                name: outputs(examples[0]).double().softmax(1)
                for name, examples in parts.named().items()
            }
        )


def margins_of(models: Sequence[Predictions], parts: Parts, name: str) -> Tensor:
    """Return the margins of several models (models, n) on the part with a name."""
    targets = parts.named()[name][1]
    return torch.stack([margins(model.of_part[name], targets) for model in models])


def js_divergence(left: Tensor, right: Tensor) -> float:
    """Return the Jensen-Shannon divergence of two models' predictions, mean over examples.

    Args:
        left: Probabilities of one model (n, classes).
        right: Probabilities of the other model (n, classes).

    Returns:
        The divergence in nats, between 0 and ln 2.
    """
    middle = (left + right) / 2
    return float((_kl(left, middle) + _kl(right, middle)).mean() / 2)


def accuracy(probabilities: Tensor, targets: Tensor) -> float:
    """Return the share of examples whose most probable class is the target."""
    return float((probabilities.argmax(1) == targets).double().mean())


def losses(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each example, (n,)."""
    return -probabilities.gather(1, targets[:, None])[:, 0].clamp_min(TINY).log()


def compare(model: Predictions, oracle: Predictions, parts: Parts) -> dict[str, float]:
    """Compare a model's predictions with those of the retrained model.

    Returns:
        Accuracies, also over nodes, divergences, forget loss, tow and mia_auc, by their keys in
        results.json.
    """
    result: dict[str, float] = {}
    tow = 1.0
    for name, (_, targets) in parts.named().items():
        own, wanted = model.of_part[name], oracle.of_part[name]
        result[f"{name}_accuracy"] = accuracy(own, targets)
        result[f"{name}_js"] = js_divergence(own, wanted)
        tow *= 1.0 - abs(result[f"{name}_accuracy"] - accuracy(wanted, targets))
    forget_losses = losses(model.of_part["forget"], parts.forget[1])
    test_losses = losses(model.of_part["test"], parts.test[1])
    return result | {
        "forget_loss": float(forget_losses.mean()),
        "tow": tow,
        "mia_auc": membership_auc(forget_losses, test_losses),
        **fairness(model.of_part["retain"].argmax(1), parts.retain[1], parts.owners),
    }


def floor(oracles: Sequence[Predictions]) -> dict[str, float]:
    """Return the mean divergence over pairs of independently retrained models.

    Args:
        oracles: Models retrained from different seeds; at least two for a floor.

    Returns:
        ``forget_js``, ``retain_js``, ``test_js``; empty for a single oracle.
    """
    pairs = [(a, b) for i, a in enumerate(oracles) for b in oracles[i + 1 :]]
    return {
        f"{name}_js": sum(js_divergence(a.of_part[name], b.of_part[name]) for a, b in pairs)
        / len(pairs)
        for name in (oracles[0].of_part if pairs else ())
    }


def _kl(left: Tensor, right: Tensor) -> Tensor:
    return (left * (left.clamp_min(TINY).log() - right.clamp_min(TINY).log())).sum(1)
