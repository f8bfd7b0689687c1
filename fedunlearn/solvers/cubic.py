"""The cubic subproblem: minimise m(s) = g's + 1/2 s'Hs + (M/6)||s||^3, in a Krylov subspace.

The subspace minimiser is exact (secular.py); as the subspace grows it tends to the global one
(Cartis, Gould, Toint 2011, section 6).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from fedunlearn.solvers.lanczos import KrylovBasis, lanczos
from fedunlearn.solvers.linear_operator import LinearOperator
from fedunlearn.solvers.secular import FloatArray, minimise_cubic
from fedunlearn.solvers.solution import Solution, Status


@dataclass(frozen=True, eq=False)
class CubicSubproblem:
    """The cubic model of an objective around a point.

    Attributes:
        operator: H, symmetric, on R^d.
        gradient: g of shape (d,).
        weight: M >= 0.
    """

    operator: LinearOperator
    gradient: Tensor
    weight: float


@dataclass(frozen=True, eq=False, kw_only=True)
class CubicStep(Solution):
    """A step and how it came about.

    Attributes:
        step: s of shape (d,).
    """

    step: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class ReducedStep(Solution):
    """A step by its coordinates in a basis, and how it came about.

    Attributes:
        coordinates: (k,).
    """

    coordinates: FloatArray


def lift(basis: KrylovBasis, steps: Sequence[ReducedStep]) -> Tensor:
    """Return steps as the rows (m, d) of a matrix; with a replayed basis this costs products."""
    coordinates = np.stack([step.coordinates for step in steps], axis=1)
    return basis.lift(torch.from_numpy(coordinates)).T


def reduced_gradient(
    basis: KrylovBasis, *, absolute: bool
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Do as ``spectrum`` does, for a basis and its gradient."""
    return spectrum(basis.projection.numpy(), basis.gradient.numpy(), absolute=absolute)


def spectrum(
    projection: FloatArray, gradient: FloatArray, *, absolute: bool
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return Ritz values (k,), ascending, the gradient (k,) along them, and their vectors (k, k).

    Args:
        projection: Projection of the operator to a subspace, (k, k), symmetric.
        gradient: Projection of the gradient, (k,).
        absolute: Replace the Ritz values by their absolute values (saddle-free Newton, Dauphin et
            al. 2014), so that directions of negative curvature are left by a bounded step.
    """
    ritz, vectors = np.linalg.eigh(projection)
    used = np.abs(ritz) if absolute else ritz
    order = np.argsort(used, kind="stable")
    vectors = vectors[:, order]
    return used[order], vectors.T @ gradient, vectors


def solve_projected(
    projection: FloatArray, gradient: FloatArray, weight: float, *, absolute: bool = False
) -> ReducedStep:
    """Minimise a cubic model that is at hand exactly.

    Args:
        projection: H on a subspace, (k, k), symmetric.
        gradient: g there, (k,).
        weight: M >= 0.
        absolute: Whether Ritz values are replaced by their absolute values.

    Returns:
        The minimiser; its residual is that in the subspace, 0.
    """
    ritz, along, vectors = spectrum(projection, gradient, absolute=absolute)
    if not gradient.any():  # negative curvature that is but rounding must not be what moves
        rounding = 8.0 * ritz.size * np.finfo(float).eps * float(np.abs(ritz).max())
        ritz = np.where(np.abs(ritz) <= rounding, 0.0, ritz)
    solved = minimise_cubic(ritz, along, weight)
    coordinates = vectors @ solved.coordinates
    return ReducedStep(
        coordinates=coordinates,
        weight=weight,
        damping=solved.damping,
        predicted=solved.value,
        quadratic=solved.value - solved.damping * float(coordinates @ coordinates) / 3.0,
        residual=1.0 if solved.status is Status.UNBOUNDED and gradient.any() else 0.0,
        ritz_values=tuple(float(value) for value in ritz),
        products=0,
        status=solved.status,
    )


def solve_reduced(
    basis: KrylovBasis, weight: float, *, rtol: float = 1e-8, absolute: bool = False
) -> ReducedStep:
    """Minimise the cubic model exactly over a Krylov subspace; costs no product.

    Args:
        basis: The subspace and the operator's projection to it.
        weight: M >= 0.
        rtol: Relative residual from which the step counts as converged.
        absolute: Whether Ritz values are replaced by their absolute values.

    Returns:
        The minimiser over the subspace. Its status is BUDGET_SPENT where the subspace was too
        small for the tolerance.
    """
    gradient = basis.gradient.numpy()
    step = solve_projected(basis.projection.numpy(), gradient, weight, absolute=absolute)
    if step.status is Status.UNBOUNDED:
        return replace(step, products=basis.products)
    norm = float(np.linalg.norm(gradient))
    residual = basis.coupling * abs(float(step.coordinates[-1])) / norm if norm else 0.0
    # Without a gradient to compare with, only a basis of everything shows the leftmost curvature.
    done = basis.exhausted or (norm > 0.0 and residual <= rtol)
    status = step.status if done else Status.BUDGET_SPENT
    return replace(step, residual=residual, products=basis.products, status=status)


def solve_in_basis(
    basis: KrylovBasis, weight: float, *, rtol: float = 1e-8, absolute: bool = False
) -> CubicStep:
    """Do as ``solve_reduced`` does, and return the step as a vector."""
    reduced = solve_reduced(basis, weight, rtol=rtol, absolute=absolute)
    (step,) = lift(basis, [reduced])
    kept = {f.name: getattr(reduced, f.name) for f in fields(Solution)}
    return CubicStep(step=step, **(kept | {"products": basis.products}))


class CubicSolver(ABC):
    """Something that minimises a cubic model."""

    @abstractmethod
    def solve(self, problem: CubicSubproblem, /, *, rtol: float, max_products: int) -> CubicStep:
        """Minimise the model.

        Args:
            problem: Operator, gradient and weight.
            rtol: Relative residual at which to stop early; 0 spends every product.
            max_products: Budget; running out of it is a status, not an error.

        Returns:
            The best step found, with its status.
        """


class KrylovCubicSolver(CubicSolver):
    """Exact minimisation over a Krylov subspace (Cartis, Gould, Toint 2011, section 6).

    With ``rtol=0`` and ``max_products`` = d the result is the global minimiser over R^d. An early
    stop keeps that promise for positive semidefinite operators; for others it promises a global
    minimiser over the subspace. Memory: max_products + 3 vectors of length d.
    """

    @override
    def solve(self, problem: CubicSubproblem, /, *, rtol: float, max_products: int) -> CubicStep:
        if max_products < 1:
            raise ValueError(f"max_products must be at least 1, got {max_products}")
        last: KrylovBasis | None = None
        for last in lanczos(problem.operator, problem.gradient, max_products):
            if rtol > 0.0:
                status = solve_reduced(last, problem.weight, rtol=rtol).status
                if status is Status.CONVERGED:
                    break
        if last is not None:
            return solve_in_basis(last, problem.weight, rtol=rtol)
        # a zero gradient and no negative curvature to look for
        return CubicStep(
            step=torch.zeros_like(problem.gradient),
            weight=problem.weight,
            damping=0.0,
            predicted=0.0,
            quadratic=0.0,
            residual=0.0,
            ritz_values=(),
            products=0,
            status=Status.STATIONARY,
        )
