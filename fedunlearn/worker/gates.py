"""Gates: what a model must keep before it takes the place of the current one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from fedunlearn.worker.worker_settings import Gates

# Which setting bounds which measure, from above.
BOUNDS: Mapping[str, str] = {
    "retain_loss_rise": "mean loss on what stays, after minus before, in nats",
    "test_accuracy_drop": "accuracy on held-out data, before minus after",
    "relative_update": "norm of the change over the norm of the model before",
}


@dataclass(frozen=True)
class Check:
    """One gate and what was measured.

    Attributes:
        name: Of the measure.
        meaning: What it is.
        threshold: It may be so much at most.
        value: It is.
        passed: Whether it is within the threshold; what is not a number is not.
    """

    name: str
    meaning: str
    threshold: float
    value: float
    passed: bool

    def as_dict(self) -> dict[str, object]:
        """Return it JSON-able; a value that is not finite as a word."""
        told = asdict(self)
        return told | ({} if math.isfinite(self.value) else {"value": str(self.value)})


def check(measures: Mapping[str, float], gates: Gates) -> tuple[Check, ...]:
    """Hold measures against the gates; what was not measured is not checked."""
    return tuple(
        Check(name, meaning, bound, measures[name], measures[name] <= bound)
        for name, meaning in BOUNDS.items()
        if name in measures
        for bound in (float(getattr(gates, name)),)
    )


def failures(checks: tuple[Check, ...]) -> str:
    """Say which gates hold a model back; empty where none does."""
    return "; ".join(
        f"{each.name} is {each.value:.4g}, at most {each.threshold:g} is allowed"
        for each in checks
        if not each.passed
    )
