"""The cubic model in the eigenbasis of its curvature: one equation in one unknown.

The global minimiser satisfies (H + sigma I) s = -g with sigma = (M/2)||s|| and H + sigma I
positive semidefinite (Nesterov, Polyak 2006, section 5; Cartis, Gould, Toint 2011, theorem 3.1).
sigma is the damping: it is found, not tuned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from fedunlearn.solvers.solution import Status

FloatArray = NDArray[np.float64]

# Gradient components below this, in units of the curvature and the step, or below this share of the
# largest count as zero: squares underflow.
NEGLIGIBLE = 1e-140


@dataclass(frozen=True)
class SpectralStep:
    """A minimiser in the eigenbasis of the curvature.

    Attributes:
        coordinates: (k,), along the eigenvectors.
        damping: sigma = (M/2)||s||.
        value: m(s), never positive; minus infinity where unbounded.
        status: CONVERGED, HARD_CASE, STATIONARY or UNBOUNDED.
    """

    coordinates: FloatArray
    damping: float
    value: float
    status: Status


def minimise_cubic(eigenvalues: FloatArray, gradient: FloatArray, weight: float) -> SpectralStep:
    """Minimise the cubic model globally, where H is diagonal.

    Solves the secular equation ||s(sigma)|| = 2 sigma / M for its one root at or right of the
    leftmost pole, in the distance to that pole: so a root that lies closer to the pole than
    rounding resolves (the nearly hard case) is found to full relative precision.

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
    # In units of a curvature and a length in which H, M and g are at most about 1, so that no
    # threshold depends on the units of the problem. Powers of two: dividing by them is exact.
    push, spread = float(np.abs(gradient).max()), float(np.abs(eigenvalues).max())
    unit = _power_of_two(max(spread, math.sqrt(weight) * math.sqrt(push)) or 1.0)
    bounded_by_weight = weight > 0.0 and eigenvalues[0] < 0.0
    length = _power_of_two((unit / weight if bounded_by_weight else push / unit) or 1.0)
    slope = unit * length
    found = _minimise(eigenvalues / unit, gradient / slope, weight / unit * length)
    return SpectralStep(
        found.coordinates * length, found.damping * unit, found.value * slope * length, found.status
    )


def _power_of_two(value: float) -> float:
    """Return the largest power of two that does not exceed a positive value."""
    return math.ldexp(1.0, math.frexp(value)[1] - 1)


def _minimise(eigenvalues: FloatArray, gradient: FloatArray, weight: float) -> SpectralStep:
    """Do as ``minimise_cubic`` does, in units in which H, M and g are at most about 1."""
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


def _secular_root(
    gaps: FloatArray, gradient: FloatArray, weight: float, pole: float, norm: float
) -> float:
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


def _newton(eigenvalues: FloatArray, gradient: FloatArray) -> SpectralStep:
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
    eigenvalues: FloatArray,
    gradient: FloatArray,
    weight: float,
    coordinates: FloatArray,
    damping: float,
    status: Status,
) -> SpectralStep:
    length = float(np.linalg.norm(coordinates))
    value = float(
        gradient @ coordinates + 0.5 * eigenvalues @ coordinates**2 + weight / 6.0 * length**3
    )
    return SpectralStep(coordinates, damping, value, status)
