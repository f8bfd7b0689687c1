"""Newton unlearning by the pseudo-inverse, which destroys networks.

Source: the baseline of arXiv 2406.14507, section 3 and figure 1 (there "PINV-Newton"): H is nearly
singular at a trained network, so its smallest eigenvalues, inverted, make the step as long as they
are small, and the model forgets everything. Here it uses the same Krylov space as cubic-newton,
where T is inverted except for eigenvalues below ``cutoff`` times the largest.

Defaults: the gradient, the Hessian and the point of the paper.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from typing_extensions import override

from fedunlearn.settings import NotNegative, Settings
from fedunlearn.solvers.secular import FloatArray
from fedunlearn.unlearning.method import Grid
from fedunlearn.unlearning.plain_newton import PlainNewton, PlainNewtonSettings


class NewtonPinvSettings(PlainNewtonSettings):
    """Settings of newton-pinv.

    Attributes:
        cutoff: Eigenvalues below this share of the largest count as zero (the rule and the name of
            ``rtol`` in torch.linalg.pinv).
    """

    cutoff: NotNegative = 1e-6


class NewtonPinv(PlainNewton[NewtonPinvSettings]):
    """A Newton step by the pseudo-inverse of the curvature."""

    name: ClassVar[str] = "newton-pinv"
    settings_type: ClassVar[type[Settings]] = NewtonPinvSettings
    grid: ClassVar[Grid] = {"cutoff": (1e-6, 1e-3, 1e-2, 3e-2, 1e-1, 2e-1, 3e-1, 5e-1)}

    @override
    def inverse(self, ritz: FloatArray) -> FloatArray:
        sizes = np.abs(ritz)
        large = sizes > self.settings.cutoff * sizes.max()
        return np.where(large, 1.0 / np.where(large, ritz, 1.0), 0.0)
