"""The retrained models of a request, and the metrics that compare other models with them."""

from __future__ import annotations

from collections.abc import Sequence

from fedunlearn.evaluation.attacks import LEAST_SHADOWS, pair_auc, ulira_auc
from fedunlearn.evaluation.klom import klom
from fedunlearn.evaluation.metrics import Parts, Predictions, compare, floor, margins_of

KLOM_KEYS = {"forget": "klom", "retain": "klom_retain", "test": "klom_test"}


class Oracles:
    """The retrained models of one request.

    The first is the one that models are compared with. All but the first are the shadow models of
    the attack on examples. An oracle with the seed of a replica is the replica's twin.
    """

    def __init__(self, predicted: Sequence[Predictions], parts: Parts, replicas: int) -> None:
        """Compare with oracles by their predictions.

        Args:
            predicted: The oracles' predictions; those of the replicas' twins first.
            parts: The examples on which the predictions were made.
            replicas: Number of trained models that forget, the scenario's own among them.
        """
        self.predicted = predicted
        self.parts = parts
        self._twins = predicted[:replicas]
        self._without_replica = predicted[replicas:]
        self._shadows = predicted[1:] if len(predicted) > LEAST_SHADOWS else ()
        self._shadow_margins = {
            name: margins_of(self._shadows, parts, name)
            for name in ("forget", "test")
            if self._shadows
        }

    @property
    def first(self) -> Predictions:
        """The predictions of the oracle that models are compared with."""
        return self.predicted[0]

    @property
    def _references(self) -> Sequence[Predictions]:
        """The oracles without a replica where they are as many as the twins; else all oracles."""
        return self._without_replica if self._twins_measured else self.predicted

    @property
    def _twins_measured(self) -> bool:
        return len(self._without_replica) >= len(self._twins) > 1

    def floor(self) -> dict[str, float]:
        """Return the floor: the mean divergence over pairs of oracles."""
        return floor(self.predicted)

    @property
    def shadows(self) -> int | None:
        """Number of shadow models of U-LiRA; None where there are too few."""
        return len(self._shadows) or None

    @property
    def klom_references(self) -> int | None:
        """Number of oracles that KLoM compares with; None for a single model."""
        return len(self._references) if len(self._twins) > 1 else None

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
        """Measure the distribution of the models of all replicas, in their order.

        Returns:
            KLoM, and the AUC of U-LiRA over seeds; empty for a single model.
        """
        if len(models) < 2:
            return {}
        return self._klom(models) | {
            "ulira_pair_auc": pair_auc(
                margins_of(models, self.parts, "forget"),
                margins_of(self._twins, self.parts, "forget"),
            )
        }

    def own_distribution(self) -> dict[str, float]:
        """Measure the distribution of the retrained models; empty where there are too few."""
        return self._klom(self._twins) if self._twins_measured else {}

    def _klom(self, models: Sequence[Predictions]) -> dict[str, float]:
        return {
            key: klom(
                margins_of(models, self.parts, name),
                margins_of(self._references, self.parts, name),
            )
            for name, key in KLOM_KEYS.items()
        }
