"""Newton unlearning by the pseudo-inverse: what destroys networks.

Source: the baseline of arXiv 2406.14507, section 3 and figure 1 (there "PINV-Newton"): H is nearly
singular at a trained network, so its smallest eigenvalues, inverted, make the step as long as they
are small, and the model forgets everything. Here in the same Krylov space as cubic-newton, where T
is inverted but for eigenvalues below ``cutoff`` times the largest.

Defaults: the paper's gradient, Hessian and point.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor
from typing_extensions import override

from fedunlearn.scenario.settings import NotNegative, Settings
from fedunlearn.solvers.cubic import ReducedStep, reduced_gradient
from fedunlearn.solvers.lanczos import KrylovBasis
from fedunlearn.unlearning.influence import Influence
from fedunlearn.unlearning.plain_newton import PlainNewtonSettings, plain_step
from fedunlearn.unlearning.subspace import Chosen, SubspaceMethod


class NewtonPinvSettings(PlainNewtonSettings):
    """Settings of newton-pinv.

    Attributes:
        cutoff: Eigenvalues below this share of the largest count as zero (the rule and the name of
            ``rtol`` in torch.linalg.pinv).
    """

    cutoff: NotNegative = 1e-6


class NewtonPinv(SubspaceMethod[NewtonPinvSettings]):
    """A Newton step by the pseudo-inverse of the curvature."""

    name: ClassVar[str] = "newton-pinv"
    settings_type: ClassVar[type[Settings]] = NewtonPinvSettings

    @override
    def choose(self, basis: KrylovBasis, influence: Influence, moved: Tensor | None) -> Chosen:
        del influence, moved
        return Chosen(self._step(basis))

    @override
    def again(self, basis: KrylovBasis, like: ReducedStep) -> ReducedStep:
        del like
        return self._step(basis)

    def _step(self, basis: KrylovBasis) -> ReducedStep:
        ritz, _, _ = reduced_gradient(basis, absolute=self.settings.absolute)
        sizes = np.abs(ritz)
        kept = sizes > self.settings.cutoff * sizes.max()
        inverse = np.where(kept, 1.0 / np.where(kept, ritz, 1.0), 0.0)
        return plain_step(basis, inverse, damping=0.0, absolute=self.settings.absolute)
