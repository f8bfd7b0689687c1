"""PLACEHOLDER"""

from __future__ import annotations
from dataclasses import dataclass
from typing import Any
from fedunlearn.federation.subspace_summary import Summary
from fedunlearn.recording.recording import Recording
from fedunlearn.solvers.cubic import ReducedStep
from fedunlearn.solvers.weight import Candidate


@dataclass(frozen=True)
class Validity:
    values: dict[str, float]
    verdict: str

    @classmethod
    def of(
        cls, now: Summary, after: Recording, step: ReducedStep, tried: tuple[Candidate, ...]
    ) -> Validity:
        y = step.coordinates
        gone = after.examples - after.stays.examples
        v = {
            "share": gone / after.examples,
            "inside": 1 - now.outside / max(now.square, 1e-300),
            "predicted": step.predicted,
            "damping": step.damping,
            "forget_rise": float(now.gradient @ y + 0.5 * y @ now.curvature @ y) / now.examples,
            "retain_rise": float(after.stays.gradient @ y + 0.5 * y @ after.stays.curvature @ y)
            / after.stays.examples,
            "step": float((y @ y) ** 0.5),
        }
        return cls(v, "done")

    def as_dict(self) -> dict[str, Any]:
        return self.values
