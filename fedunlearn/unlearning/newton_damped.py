"""Damped Newton unlearning: a constant, chosen by the user, is added to the curvature.

Source: the baseline of arXiv 2406.14507, section 5 (there "damped Newton"), as in most removals
by influence functions (Koh, Liang 2017; Golatkar, Achille, Soatto 2020). Here it uses the same
Krylov space as cubic-newton, in which (T + damping I) y = -Q'g is solved exactly. Where the
curvature has eigenvalues below -damping, the solution of this equation is not a minimum. As a
baseline, the method does not check for this.

Defaults: the gradient, the Hessian and the point of the paper.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from typing_extensions import override

from fedunlearn.settings import Settings
from fedunlearn.solvers.secular import FloatArray
from fedunlearn.unlearning.method import Grid
from fedunlearn.unlearning.plain_newton import PlainNewton, PlainNewtonSettings


class NewtonDampedSettings(PlainNewtonSettings):
    """Settings of newton-damped.

    Attributes:
        damping: Constant that is added to every eigenvalue, in units of curvature.
    """

    damping: Annotated[float, Field(gt=0, strict=False)] = 1e-3


class NewtonDamped(PlainNewton[NewtonDampedSettings]):
    """A Newton step with a given damping."""

    name: ClassVar[str] = "newton-damped"
    settings_type: ClassVar[type[Settings]] = NewtonDampedSettings
    grid: ClassVar[Grid] = {"damping": (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)}

    @property
    @override
    def damping(self) -> float:
        return self.settings.damping

    @override
    def inverse(self, ritz: FloatArray) -> FloatArray:
        damped = ritz + self.damping
        tiny = np.finfo(float).tiny
        return 1.0 / np.where(np.abs(damped) > tiny, damped, tiny)
