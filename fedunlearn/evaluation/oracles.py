"""Retrained models, and how others are held against them."""

from __future__ import annotations

from collections.abc import Sequence

from fedunlearn.evaluation.attacks import LEAST_SHADOWS, told_apart, ulira_auc
from fedunlearn.evaluation.klom import klom
from fedunlearn.evaluation.metrics import Parts, Predictions, compare, floor, margins_of

KLOM_KEYS = {"forget": "klom", "retain": "klom_retain", "test": "klom_test"}


class Oracles:
    """The retrained models of one request.

    Each plays the parts it can: the first is what a model is compared with; all but the first are
    the shadows of the attack on examples; the one with a replica's seed is its twin.
    """

    def __init__(self, predicted: Sequence[Predictions], parts: Parts, replicas: int) -> None:
        """Take the oracles' predictions.

        Args:
            predicted: Theirs; those of the replicas' twins first.
            parts: Where the predictions were made.
            replicas: How many models forget, the scenario's own among them.
        """
        self.predicted = predicted
        self.parts = parts
        self._twins = predicted[:replicas]
        self._strangers = predicted[replicas:]
        self._shadows = predicted[1:] if len(predicted) > LEAST_SHADOWS else ()
        self._shadow_margins = {
            name: margins_of(self._shadows, parts, name)
            for name in ("forget", "test")
            if self._shadows
        }

    @property
    def first(self) -> Predictions:
        """What a model is compared with."""
        return self.predicted[0]

    @property
    def _references(self) -> Sequence[Predictions]:
        """Strangers where they are as many as the twins, so that twins can be measured; or all."""
        return self._strangers if self._twins_measured else self.predicted

    @property
    def _twins_measured(self) -> bool:
        return len(self._strangers) >= len(self._twins) > 1

    def described(self) -> dict[str, object]:
        """Return the floor, and how many models attacks and KLoM had."""
        counts: dict[str, object] = {"floor": floor(self.predicted)}
        if self._shadows:
            counts["shadow_oracles"] = len(self._shadows)
        if len(self._twins) > 1:
            counts["klom_oracles"] = len(self._references)
        return counts

    def compare(self, model: Predictions) -> dict[str, float]:
        """Measure one model."""
        result = compare(model, self.first, self.parts)
        if self._shadows:
            result["ulira_auc"] = ulira_auc(
                *(margins_of([model], self.parts, name)[0] for name in self._shadow_margins),
                *self._shadow_margins.values(),
            )
        return result

    def compare_distribution(self, models: Sequence[Predictions]) -> dict[str, float]:
        """Measure how the models of all replicas, in their order, are distributed.

        Returns:
            KLoM, and whether they are told apart; nothing for a single model.
        """
        if len(models) < 2:
            return {}
        return self._klom(models) | {
            "ulira_told_apart": told_apart(
                margins_of(models, self.parts, "forget"),
                margins_of(self._twins, self.parts, "forget"),
            )
        }

    def own_distribution(self) -> dict[str, float]:
        """Measure retrained models like others; nothing where there are too few."""
        return self._klom(self._twins) if self._twins_measured else {}

    def _klom(self, models: Sequence[Predictions]) -> dict[str, float]:
        return {
            key: klom(
                margins_of(models, self.parts, name),
                margins_of(self._references, self.parts, name),
            )
            for name, key in KLOM_KEYS.items()
        }
