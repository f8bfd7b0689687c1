"""The cubic subproblem: minimise m(s) = g's + 1/2 s'Hs + (M/6)||s||^3.

The global minimiser satisfies (H + sigma I) s = -g with sigma = (M/2)||s|| and H + sigma I
positive semidefinite (Nesterov, Polyak 2006, section 5; Cartis, Gould, Toint 2011, theorem 3.1).
sigma is the damping: it is found, not tuned.
"""

from __future__ import annotations

import enum
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import Tensor
from typing_extensions import override

from fedunlearn.solvers.lanczos import KrylovBasis, lanczos
from fedunlearn.solvers.operator import LinearOperator

Vector = NDArray[np.float64]

# Gradient components below this, or this share of the largest, count as zero: squares underflow.
NEGLIGIBLE = 1e-140


class Status(enum.Enum):
    """How a solve ended; the value says what to do about it."""

    CONVERGED = "converged: nothing to do"
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


@dataclass(frozen=True)
class SpectralStep:
    """A minimiser in the eigenbasis of the curvature.

    Attributes:
        coordinates: (k,), along the eigenvectors.
        damping: sigma = (M/2)||s||.
        value: m(s), never positive; minus infinity where unbounded.
        status: CONVERGED, HARD_CASE, STATIONARY or UNBOUNDED.
    """

    coordinates: Vector
    damping: float
    value: float
    status: Status


def minimise_cubic(eigenvalues: Vector, gradient: Vector, weight: float) -> SpectralStep:
    """Minimise the cubic model globally, where H is diagonal.

    Solves the secular equation ||s(sigma)|| = 2 sigma / M for its one root at or right of the
    leftmost pole, in the distance to that pole: so a root that lies closer to the pole than
    rounding could tell (the nearly hard case) is found to full relative precision.

    Args:
        eigenvalues: (k,), ascending.
        gradient: (k,), in the eigenbasis.
        weight: M >= 0; 0 asks for the Newton step.

    Returns:
        The minimiser; for weight 0 and curvature that is not positive, status UNBOUNDED.

    Raises:
        ValueError: The weight is negative.
    """
    if weight < 0.0:
        raise ValueError(f"the cubic weight must not be negative, got {weight}")
    if eigenvalues.size == 0:
        return SpectralStep(np.zeros(0), 0.0, 0.0, Status.STATIONARY)
    if weight == 0.0:
        return _newton(eigenvalues, gradient)

    leftmost = float(eigenvalues[0])
    pole = max(0.0, -leftmost)
    gaps = eigenvalues - leftmost if leftmost < 0.0 else eigenvalues
    largest = float(np.abs(gradient).max())
    gradient = np.where(np.abs(gradient) > NEGLIGIBLE * max(largest, 1.0), gradient, 0.0)
    norm = float(np.linalg.norm(gradient))

    if norm == 0.0 and pole == 0.0:
        return SpectralStep(np.zeros_like(gradient), 0.0, 0.0, Status.STATIONARY)

    at_pole = gaps <= 0.0
    open_pole = bool(np.any(gradient[at_pole] != 0.0))
    if pole > 0.0 and not open_pole:
        inner = np.zeros_like(gradient)
        inner[~at_pole] = -gradient[~at_pole] / gaps[~at_pole]
        radius = 2.0 * pole / weight
        inner_norm = float(np.linalg.norm(inner))
        if inner_norm <= radius:
            inner[0] = math.sqrt(radius**2 - inner_norm**2)
            return _spectral_step(eigenvalues, gradient, weight, inner, pole, Status.HARD_CASE)

    distance = _secular_root(gaps, gradient, weight, pole, norm)
    coordinates = np.zeros_like(gradient)
    moving = gradient != 0.0
    coordinates[moving] = -gradient[moving] / (gaps[moving] + distance)
    damping = pole + distance
    return _spectral_step(eigenvalues, gradient, weight, coordinates, damping, Status.CONVERGED)


def _secular_root(gaps: Vector, gradient: Vector, weight: float, pole: float, norm: float) -> float:
    """Find x > 0 with ||gradient / (gaps + x)|| = 2 (pole + x) / weight."""
    moving = gradient != 0.0
    gaps, gradient = gaps[moving], np.abs(gradient[moving])

    def excess(log_x: float) -> float:
        x = math.exp(log_x)
        with np.errstate(over="ignore"):
            length = float(np.linalg.norm(gradient / (gaps + x)))
        return math.log(length) - math.log(2.0 * (pole + x) / weight)

    # ||s|| <= norm / (smallest gap + x), so the root lies left of where this meets the line.
    smallest = float(gaps.min()) if pole == 0.0 else pole
    high = math.log(_root_of_product(smallest, weight * norm / 2.0)) + 1e-9
    if pole == 0.0:
        low = math.log(_root_of_product(float(gaps.max()), weight * norm / 2.0)) - 1e-9
    elif np.any(gaps <= 0.0):  # ||s|| >= |gradient at the pole| / x
        at_pole = float(np.linalg.norm(gradient[gaps <= 0.0]))
        low = math.log(_root_of_product(pole, weight * at_pole / 2.0)) - 1e-9
    else:
        low, width = high - 1.0, 1.0
        while excess(low) < 0.0:
            if math.exp(low) == 0.0:  # no room right of the pole: the root is there, to rounding
                return 0.0
            low, width = low - width, 2.0 * width
    root = brentq(excess, low, high, xtol=1e-15, rtol=4 * np.finfo(float).eps, maxiter=500)
    return math.exp(root)


def _root_of_product(offset: float, product: float) -> float:
    """Return the positive root of x (offset + x) = product, without cancellation."""
    return 2.0 * product / (offset + math.sqrt(offset**2 + 4.0 * product))


def _newton(eigenvalues: Vector, gradient: Vector) -> SpectralStep:
    tolerance = eigenvalues.size * np.finfo(float).eps * float(np.abs(eigenvalues).max())
    flat = eigenvalues <= tolerance
    slope = np.finfo(float).eps * float(np.linalg.norm(gradient))
    if np.any(eigenvalues < -tolerance) or np.any(np.abs(gradient[flat]) > slope):
        return SpectralStep(np.zeros_like(gradient), 0.0, -math.inf, Status.UNBOUNDED)
    coordinates = np.zeros_like(gradient)
    coordinates[~flat] = -gradient[~flat] / eigenvalues[~flat]
    status = Status.CONVERGED if np.any(gradient != 0.0) else Status.STATIONARY
    return _spectral_step(eigenvalues, gradient, 0.0, coordinates, 0.0, status)


def _spectral_step(
    eigenvalues: Vector,
    gradient: Vector,
    weight: float,
    coordinates: Vector,
    damping: float,
    status: Status,
) -> SpectralStep:
    length = float(np.linalg.norm(coordinates))
    value = float(
        gradient @ coordinates + 0.5 * eigenvalues @ coordinates**2 + weight / 6.0 * length**3
    )
    return SpectralStep(coordinates, damping, value, status)


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


@dataclass(frozen=True, eq=False)
class CubicStep:
    """A step and how it came about.

    Attributes:
        step: s of shape (d,).
        weight: M.
        damping: sigma = (M/2)||s||, in units of curvature.
        predicted: m(s), the change that the model predicts; at most 0.
        quadratic: g's + 1/2 s'Hs, the same without the cubic term.
        residual: ||(H + sigma I) s + g|| / ||g||, 0 where the gradient is zero.
        ritz_values: (k,), ascending; as used, so absolute where that was asked for.
        products: How many products were spent.
        status: How it ended, with its remedy as value.
    """

    step: Tensor
    weight: float
    damping: float
    predicted: float
    quadratic: float
    residual: float
    ritz_values: tuple[float, ...]
    products: int
    status: Status


def solve_in_basis(
    basis: KrylovBasis, weight: float, *, rtol: float = 1e-8, absolute: bool = False
) -> CubicStep:
    """Minimise the cubic model exactly over a Krylov subspace; costs no product.

    Args:
        basis: The subspace and the operator's projection to it.
        weight: M >= 0.
        rtol: Relative residual from which the step counts as converged.
        absolute: Replace the Ritz values by their absolute values (saddle-free Newton, Dauphin et
            al. 2014), so that directions of negative curvature are left by a bounded step.

    Returns:
        The minimiser over the subspace. Its status is BUDGET_SPENT where the subspace was too
        small for the tolerance.
    """
    ritz, vectors = np.linalg.eigh(basis.projection.numpy())
    gradient = vectors.T @ basis.gradient.numpy()
    used = np.abs(ritz) if absolute else ritz
    order = np.argsort(used, kind="stable")
    solved = minimise_cubic(used[order], gradient[order], weight)
    spectral = np.empty_like(solved.coordinates)
    spectral[order] = solved.coordinates
    coordinates = vectors @ spectral

    norm = float(np.linalg.norm(gradient))
    residual = basis.coupling * abs(float(coordinates[-1])) / norm if norm else 0.0
    status = solved.status
    if status is Status.UNBOUNDED:
        residual = 1.0
    # Without a gradient to compare with, only a basis of everything shows the leftmost curvature.
    done = basis.exhausted or (norm > 0.0 and residual <= rtol)
    if status in (Status.CONVERGED, Status.HARD_CASE) and not done:
        status = Status.BUDGET_SPENT
    return CubicStep(
        step=basis.lift(torch.from_numpy(coordinates)),
        weight=weight,
        damping=solved.damping,
        predicted=solved.value,
        quadratic=solved.value - solved.damping * float(coordinates @ coordinates) / 3.0,
        residual=residual,
        ritz_values=tuple(float(value) for value in used[order]),
        products=basis.size,
        status=status,
    )


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
    minimiser over the subspace.
    """

    @override
    def solve(self, problem: CubicSubproblem, /, *, rtol: float, max_products: int) -> CubicStep:
        if max_products < 1:
            raise ValueError(f"max_products must be at least 1, got {max_products}")
        step: CubicStep | None = None
        for basis in lanczos(problem.operator, problem.gradient, max_products):
            last = basis.exhausted or basis.size == max_products
            if last or rtol > 0.0:
                step = solve_in_basis(basis, problem.weight, rtol=rtol)
                if rtol > 0.0 and step.status is Status.CONVERGED:
                    break
        if step is None:  # a zero gradient and no negative curvature to look for
            return CubicStep(
                torch.zeros_like(problem.gradient),
                problem.weight,
                0.0,
                0.0,
                0.0,
                0.0,
                (),
                0,
                Status.STATIONARY,
            )
        return step
