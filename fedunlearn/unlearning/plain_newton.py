"""Newton steps without a cubic term, in a Krylov space: what the baselines share."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedunlearn.scenario.settings import Share
from fedunlearn.solvers.cubic import ReducedStep, reduced_gradient
from fedunlearn.solvers.lanczos import KrylovBasis
from fedunlearn.solvers.secular import Vector
from fedunlearn.solvers.solution import Status
from fedunlearn.unlearning.influence import Source
from fedunlearn.unlearning.subspace import RESIDUAL, SubspaceSettings


class PlainNewtonSettings(SubspaceSettings):
    """The settings of a Krylov space with the paper's gradient, curvature and point as defaults."""

    gradient: Source = "retained"
    curvature: Literal["ggn", "hessian", "hessian-abs"] = "hessian"
    products: Annotated[int, Field(gt=0)] = 10
    linearise_at: Share = 1.0


def plain_step(
    basis: KrylovBasis, inverse: Vector, *, damping: float, absolute: bool
) -> ReducedStep:
    """Return the step -H^+ g in a basis.

    Args:
        basis: The subspace.
        inverse: What each eigenvalue, ascending, is to be multiplied by instead of divided (k,).
        damping: What was added to the eigenvalues.
        absolute: As for ``reduced_gradient``.

    Returns:
        The step; its status is BUDGET_SPENT where the subspace was too small for a converged one.
    """
    ritz, gradient, vectors = reduced_gradient(basis, absolute=absolute)
    spectral = -inverse * gradient
    coordinates = vectors @ spectral
    quadratic = float(gradient @ spectral + 0.5 * ritz @ spectral**2)
    rest = float(np.linalg.norm((ritz + damping) * spectral + gradient))
    leak = basis.coupling * abs(float(coordinates[-1]))
    residual = float(np.hypot(rest, leak) / np.linalg.norm(gradient))
    done = basis.exhausted or residual <= RESIDUAL
    return ReducedStep(
        coordinates=coordinates,
        weight=0.0,
        damping=damping,
        predicted=quadratic,
        quadratic=quadratic,
        residual=residual,
        ritz_values=tuple(float(value) for value in ritz),
        products=basis.products,
        status=Status.CONVERGED if done else Status.BUDGET_SPENT,
    )
