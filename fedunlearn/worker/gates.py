"""Gates: bounds that a new model must satisfy before it replaces the current one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from fedunlearn.worker.worker_settings import Gates

# Measures that have an upper bound, by the name of the setting.
BOUNDS: Mapping[str, str] = {
    "retain_loss_rise": "mean loss on the retain set, after minus before, in nats",
    "test_accuracy_drop": "accuracy on held-out data, before minus after",
    "relative_update": "norm of the change over the norm of the model before",
}


@dataclass(frozen=True)
class Check:
    """The result of one gate.

    Attributes:
        name: Name of the measure.
        meaning: Meaning of the measure.
        threshold: Largest value allowed.
        value: Measured value.
        passed: Whether the value is within the threshold; NaN is not.
    """

    name: str
    meaning: str
    threshold: float
    value: float
    passed: bool

    def as_dict(self) -> dict[str, object]:
        """Return the result in JSON types; a value that is not finite becomes a word."""
        document = asdict(self)
        return document | ({} if math.isfinite(self.value) else {"value": str(self.value)})


def check(measures: Mapping[str, float], gates: Gates) -> tuple[Check, ...]:
    """Return the results of all gates whose measures are given."""
    return tuple(
        Check(name, meaning, bound, measures[name], measures[name] <= bound)
        for name, meaning in BOUNDS.items()
        if name in measures
        for bound in (float(getattr(gates, name)),)
    )


def failures(checks: tuple[Check, ...]) -> str:
    """Return a description of the failed gates; empty if all passed."""
    return "; ".join(
        f"{each.name} is {each.value:.4g}, at most {each.threshold:g} is allowed"
        for each in checks
        if not each.passed
    )
