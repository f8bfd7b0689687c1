"""The report of a solve: its status and figures, small and JSON-able, without the step."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, fields
from typing import Any


class Status(enum.Enum):
    """How a solve ended; the value says what to do about it."""

    CONVERGED = "converged: the step met its tolerance"
    HARD_CASE = (
        "converged in the hard case: the gradient has no component along the leftmost curvature, "
        "so an eigenvector was added; its sign is arbitrary"
    )
    STATIONARY = "stationary already: the gradient is zero, so there is nothing to remove along it"
    BUDGET_SPENT = (
        "the products were spent before the residual met its tolerance: allow more products for a "
        "more exact step"
    )
    UNBOUNDED = (
        "the model has no minimum at weight 0 because the curvature is not positive: "
        "use a positive weight"
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Solution:
    """How a minimiser of m(s) = g's + 1/2 s'Hs + (M/6)||s||^3 came about.

    Attributes:
        weight: M, in units of curvature over length.
        damping: sigma = (M/2)||s||, in units of curvature.
        predicted: m(s), the change that the model predicts, in units of the objective; at most 0,
            minus infinity where unbounded.
        quadratic: g's + 1/2 s'Hs, the same without the cubic term.
        residual: ||(H + sigma I) s + g|| / ||g||, 0 where the gradient is zero.
        ritz_values: (k,), ascending; as used, so absolute where that was asked for. Empty where
            the solver has none.
        products: How many products were spent.
        status: How it ended, with its remedy as value.
    """

    weight: float
    damping: float
    predicted: float
    quadratic: float
    residual: float
    ritz_values: tuple[float, ...]
    products: int
    status: Status

    def as_dict(self) -> dict[str, Any]:
        """Return all but the step as values that JSON can hold; those not finite are left out."""
        values = {field.name: getattr(self, field.name) for field in fields(Solution)}
        infinite = [k for k, v in values.items() if isinstance(v, float) and not math.isfinite(v)]
        for name in infinite:
            del values[name]
        return values | {
            "ritz_values": list(self.ritz_values),
            "status": self.status.name.lower(),
            "remedy": self.status.value,
        }
