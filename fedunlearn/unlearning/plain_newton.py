"""The base of Newton steps without a cubic term, in a Krylov space."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal, TypeVar

import numpy as np
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedunlearn.settings import Share
from fedunlearn.solvers.cubic import ReducedStep, reduced_gradient
from fedunlearn.solvers.lanczos import KrylovBasis
from fedunlearn.solvers.secular import FloatArray
from fedunlearn.solvers.solution import Status
from fedunlearn.unlearning.influence import Influence, Source
from fedunlearn.unlearning.subspace import RESIDUAL, Chosen, SubspaceMethod, SubspaceSettings


class PlainNewtonSettings(SubspaceSettings):
    """The settings of a Krylov space with the paper's gradient, curvature and point as defaults."""

    gradient: Source = "retained"
    curvature: Literal["ggn", "hessian", "hessian-abs"] = "hessian"
    products: Annotated[int, Field(gt=0)] = 10
    linearise_at: Share = 1.0


P = TypeVar("P", bound=PlainNewtonSettings)


class PlainNewton(SubspaceMethod[P]):
    """A Newton step -H^+ g whose inverse H^+ is a function of the eigenvalues."""

    @abstractmethod
    def inverse(self, ritz: FloatArray) -> FloatArray:
        """Return the factors (k,) that replace a division by the eigenvalues (k,)."""

    @property
    def damping(self) -> float:
        """The constant that the inverse adds to the eigenvalues."""
        return 0.0

    @override
    def choose(self, basis: KrylovBasis, influence: Influence, moved: Tensor | None) -> Chosen:
        del influence, moved
        return Chosen(self._step(basis))

    @override
    def again(self, basis: KrylovBasis, like: ReducedStep) -> ReducedStep:
        del like
        return self._step(basis)

    def _step(self, basis: KrylovBasis) -> ReducedStep:
        ritz, gradient, vectors = reduced_gradient(basis, absolute=self.settings.absolute)
        spectral = -self.inverse(ritz) * gradient
        coordinates = vectors @ spectral
        quadratic = float(gradient @ spectral + 0.5 * ritz @ spectral**2)
        rest = float(np.linalg.norm((ritz + self.damping) * spectral + gradient))
        leak = basis.coupling * abs(float(coordinates[-1]))
        residual = float(np.hypot(rest, leak) / np.linalg.norm(gradient))
        done = basis.exhausted or residual <= RESIDUAL
        return ReducedStep(
            coordinates=coordinates,
            weight=0.0,
            damping=self.damping,
            predicted=quadratic,
            quadratic=quadratic,
            residual=residual,
            ritz_values=tuple(float(value) for value in ritz),
            products=basis.products,
            status=Status.CONVERGED if done else Status.BUDGET_SPENT,
        )
