"""Whether a step from summaries can be trusted, from what is at hand without a round.

**Leverage**: the largest share of the curvature, in any recorded direction, that leaves,

    rho = max over v of <v, H_f v> / <v, (H + n (lambda + damping) I) v>,

H over all that was there when training ended. Near 1, what stays says nothing about some direction
in which the model is to move, and one linearisation extrapolates. Together with the share of the
data that leaves it is what foretells the divergence: over 227 removals on digits (nodes, node sets
of up to 80 %, classes, classes of a node, samples; three partitions, data seeds 5 to 9) the
thresholds below find 93 % of those that end more than two floors from the retrained model, and
trust 87 % of the others; see the README for seeds that took no part in the choice. Rank correlation
with the divergence in floors: leverage .84, predicted decrease .73, share of the data .49.

The share of the leaver's gradient inside of the subspace is reported and not judged: directions are
chosen by where removals move the model, and a tenth of the gradient's square sufficed for those,
while .98 of it did not where they were chosen for other removals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import eigh

from fedunlearn.questions.subspace_summary import FloatArray, Summary
from fedunlearn.recording.recording import Recording
from fedunlearn.solvers.cubic import ReducedStep
from fedunlearn.solvers.weight import Candidate

LARGEST_SHARE = 0.42
LARGEST_LEVERAGE = 0.67


@dataclass(frozen=True)
class Validity:
    """What is known of a step's trustworthiness.

    Attributes:
        share: Of the data, all that left so far.
        leverage: rho, of what leaves now; in [0, 1] for curvature that is positive semidefinite.
        inside: Share of its gradients' squares inside of the recorded subspace, in [0, 1].
        predicted: m(y), the change that the cubic model predicts.
        damping: (M/2)|y|.
        gain: Gain ratio of the step, where it was checked.
        acceptable: Whether that is near 1; None where it was not checked.
        reduced: Whether the recorded step failed its check, so that a more damped one was taken.
    """

    share: float
    leverage: float
    inside: float
    predicted: float
    damping: float
    gain: float | None = None
    acceptable: bool | None = None
    reduced: bool = False

    @classmethod
    def of(
        cls, leaves: Summary, after: Recording, step: ReducedStep, tried: Sequence[Candidate] = ()
    ) -> Validity:
        """Return what is known of a step.

        Args:
            leaves: What is removed now.
            after: The recording without it.
            step: The step of all that left so far.
            tried: Candidates that were checked, if any were.
        """
        checked = next((c for c in tried if c.step is step), None)
        floor = after.examples * (after.weight_decay + step.damping)
        return cls(
            share=1.0 - after.stays.examples / after.examples,
            leverage=_leverage(leaves.curvature, after.stays.curvature, floor),
            # What records left of a stored group's sums of squares is an estimate only.
            inside=min(1.0, max(0.0, 1.0 - leaves.outside / leaves.square))
            if leaves.square > 0.0
            else 1.0,
            predicted=step.predicted,
            damping=step.damping,
            gain=checked.gain if checked else None,
            acceptable=checked.acceptable if checked else None,
            reduced=bool(tried) and tried[0].step is not step,
        )

    @property
    def trusted(self) -> bool:
        """Whether nothing speaks against the step."""
        return not self.complaints

    @property
    def complaints(self) -> list[str]:
        """What speaks against the step, each with its remedy."""
        found = []
        if self.share > LARGEST_SHARE:
            found.append(
                f"{self.share:.0%} of the data have left, more than {LARGEST_SHARE:.0%}: retrain, "
                "or use rewind"
            )
        if self.leverage > LARGEST_LEVERAGE:
            found.append(
                f"{self.leverage:.0%} of the curvature leaves in some direction, more than "
                f"{LARGEST_LEVERAGE:.0%}: use rounds (cubic-newton, or recovery rounds), or rewind"
            )
        if self.acceptable is False:
            found.append(
                f"the objective changed by {self.gain:.2g} of what was foretold: use rounds "
                "(cubic-newton)"
            )
        elif self.reduced:
            found.append(
                "the recorded step failed its check, and a more damped one was taken, which "
                "removes less: use rounds (cubic-newton, or recovery rounds), or rewind"
            )
        return found

    @property
    def verdict(self) -> str:
        """Say in one line whether the step can be trusted, and if not, why and what to do."""
        if self.trusted:
            return "converged: no check speaks against the step"
        return "do not trust the step alone: " + "; ".join(self.complaints)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as values that JSON can hold; what is not known is left out."""
        told: dict[str, Any] = {
            "trusted": self.trusted,
            "share": self.share,
            "leverage": self.leverage,
            "inside": self.inside,
            "predicted": self.predicted,
            "damping": self.damping,
        }
        if self.gain is not None and np.isfinite(self.gain):
            told["gain"] = self.gain
        return told


def _leverage(leaves: FloatArray, stays: FloatArray, floor: float) -> float:
    """Return the largest eigenvalue of (leaves + stays + floor I)^-1 leaves.

    1 where the whole is not positive definite: negative curvature tells of no bound.
    """
    whole = leaves + stays + floor * np.eye(len(leaves))
    smallest = float(np.linalg.eigvalsh(whole)[0])
    if smallest <= 0.0:
        return 1.0
    return float(eigh(leaves, whole, eigvals_only=True)[-1])
