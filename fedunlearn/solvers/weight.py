"""The cubic weight M, chosen by how well the model predicts the objective.

The Krylov basis does not depend on M, so a whole grid of candidates costs no product; only the
objective is evaluated at them, several in one round. M has units, so the grid runs over the
damping it leads to, relative to the largest Ritz value: sigma = rho theta_max beyond the pole,
s = -(H + sigma I)^-1 g, M = 2 sigma / ||s||.

The gain ratio divides the change of the objective by what the quadratic part of the model predicted
(Birgin, Gardenghi, Martinez, Santos, Toint 2017): unlike the ratio to the cubic model, which tends
to 3/2, it tends to 1 as M grows. A step is acceptable while that ratio stays near 1:

- below the window the objective curves more than the model knows (the usual failure);
- above it the influence objective falls faster than any quadratic, because it is not bounded
  below where the linear term outruns the losses: the step removes more than there was.

The last per cent of the decrease cost most of the length, and a step that is longer than it must
be harms what stays. So the weight is the largest whose step has nearly all of the best acceptable
decrease; finding it is free, and a second round confirms it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from torch import Tensor

from fedunlearn.solvers.cubic import ReducedStep, lift, reduced_gradient, solve_reduced
from fedunlearn.solvers.lanczos import KrylovBasis
from fedunlearn.solvers.secular import FloatArray

RELATIVE_DAMPINGS = (1.0, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4)
ACCEPTABLE = (0.75, 1.2)
ENOUGH = 0.9

Evaluate = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Candidate:
    """One weight that was tried.

    Attributes:
        step: The step it leads to, in the basis.
        change: Change of the objective.
        resolution: Size up to which a change of the objective may be rounding.
    """

    step: ReducedStep
    change: float
    resolution: float = 0.0

    @property
    def gain(self) -> float:
        """Change of the objective over that of the quadratic model; 1 for no step at all.

        Also 1 where both are rounding: nothing there contradicts the model. Minus infinity where
        the objective could not be evaluated: its losses overflow there.
        """
        if not math.isfinite(self.change):
            return -math.inf
        if max(abs(self.change), abs(self.step.quadratic)) <= self.resolution:
            return 1.0
        return self.change / self.step.quadratic if self.step.quadratic else 1.0

    @property
    def acceptable(self) -> bool:
        """Whether the gain lies in the window."""
        return ACCEPTABLE[0] <= self.gain <= ACCEPTABLE[1]

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold of it; a change that is not finite is left out."""
        described: dict[str, Any] = {
            "weight": self.step.weight,
            "damping": self.step.damping,
            "predicted": self.step.predicted,
            "acceptable": self.acceptable,
        }
        if math.isfinite(self.change):
            described |= {"change": self.change, "gain": self.gain}
        return described


@dataclass(frozen=True, eq=False)
class WeightChoice:
    """The weight that was chosen and those it was chosen from.

    Attributes:
        chosen: The chosen candidate; where not even the largest weight is acceptable, the candidate
            whose gain is nearest to 1.
        candidates: All, by descending weight.
        rounds: How many evaluations were asked for.
    """

    chosen: Candidate
    candidates: tuple[Candidate, ...]
    rounds: int


def choose_weight(
    basis: KrylovBasis,
    evaluate: Evaluate,
    *,
    rtol: float = 1e-8,
    absolute: bool = False,
    at_once: int = len(RELATIVE_DAMPINGS),
    resolution: Callable[[], float] = lambda: 0.0,
) -> WeightChoice:
    """Choose M by gain ratio over a grid.

    Args:
        basis: The subspace; its gradient is not zero.
        evaluate: Maps steps (m, d) to the objective's change for each, (m,).
        rtol: Relative tolerance, as for ``solve_reduced``.
        absolute: Whether Ritz values are replaced by their absolute values.
        at_once: How many steps may be held, and evaluated, at the same time.
        resolution: Returns, after an evaluation, the size up to which changes are rounding.

    Returns:
        The choice, after one or two calls of ``evaluate`` where all fit at once. Of several, the
        search ends with the first that brings a step which is not acceptable.

    Raises:
        ValueError: No step may be held.
    """
    if at_once < 1:
        raise ValueError(f"at_once must be at least 1, got {at_once}")

    def step(damping: float) -> ReducedStep:
        weight = weight_of_damping(basis, damping, absolute=absolute)
        return solve_reduced(basis, weight, rtol=rtol, absolute=absolute)

    def evaluated(*dampings: float) -> list[Candidate]:
        steps = [step(damping) for damping in dampings]
        changes = evaluate(lift(basis, steps))
        return [
            Candidate(s, float(change), resolution())
            for s, change in zip(steps, changes, strict=True)
        ]

    candidates: list[Candidate] = []
    rounds = 0
    for start in range(0, len(RELATIVE_DAMPINGS), at_once):
        candidates += evaluated(*RELATIVE_DAMPINGS[start : start + at_once])
        rounds += 1
        if not all(candidate.acceptable for candidate in candidates):
            break
    accepted = list(itertools.takewhile(lambda candidate: candidate.acceptable, candidates))
    if not accepted:
        chosen = min(candidates, key=lambda candidate: abs(candidate.gain - 1.0))
        return WeightChoice(chosen, tuple(candidates), rounds)
    enough = ENOUGH * max(-candidate.step.quadratic for candidate in accepted)
    first = next(i for i, c in enumerate(accepted) if -c.step.quadratic >= enough)
    chosen = accepted[first]
    if first == 0:
        return WeightChoice(chosen, tuple(candidates), rounds)
    log_damping = brentq(
        lambda log_rho: -step(math.exp(log_rho)).quadratic - enough,
        math.log(RELATIVE_DAMPINGS[first]),
        math.log(RELATIVE_DAMPINGS[first - 1]),
        rtol=1e-3,
    )
    (between,) = evaluated(math.exp(log_damping))
    candidates.insert(first, between)
    if between.acceptable:
        chosen = between
    return WeightChoice(chosen, tuple(candidates), rounds + 1)


# Multiples of the damping that are tried where it follows from the duration of training.
MORE_DAMPING = (1.0, 4.0, 16.0, 64.0)


def choose_damping(
    basis: KrylovBasis,
    evaluate: Evaluate,
    damping: float,
    *,
    rtol: float = 1e-8,
    absolute: bool = False,
    at_once: int = len(MORE_DAMPING),
    resolution: Callable[[], float] = lambda: 0.0,
) -> WeightChoice:
    """Take the weight of a given damping, or of a larger one where the model does not hold.

    Args:
        basis: The subspace; its gradient is not zero.
        evaluate: Maps steps (m, d) to the objective's change for each, (m,).
        damping: The damping sigma > 0, in units of curvature, beyond a pole if there is one.
        rtol: Relative tolerance, as for ``solve_reduced``.
        absolute: Whether Ritz values are replaced by their absolute values.
        at_once: How many steps may be held, and evaluated, at the same time.
        resolution: Returns, after an evaluation, the size up to which changes are rounding.

    Returns:
        The choice, by ascending damping, after one call of ``evaluate`` where all steps fit at
        once: the first acceptable candidate, or the one whose gain is nearest to 1.
    """
    ritz, _, _ = reduced_gradient(basis, absolute=absolute)
    largest = float(np.abs(ritz).max()) or 1.0
    candidates: list[Candidate] = []
    rounds = 0
    for start in range(0, len(MORE_DAMPING), at_once):
        steps = [
            solve_reduced(
                basis,
                weight_of_damping(basis, more * damping / largest, absolute=absolute),
                rtol=rtol,
                absolute=absolute,
            )
            for more in MORE_DAMPING[start : start + at_once]
        ]
        changes = evaluate(lift(basis, steps))
        candidates += [
            Candidate(step, float(change), resolution())
            for step, change in zip(steps, changes, strict=True)
        ]
        rounds += 1
        if any(candidate.acceptable for candidate in candidates):
            break
    nearest = min(candidates, key=lambda candidate: abs(candidate.gain - 1.0))
    chosen = next((candidate for candidate in candidates if candidate.acceptable), nearest)
    return WeightChoice(chosen, tuple(candidates), rounds)


def weight_of_damping(basis: KrylovBasis, relative: float, *, absolute: bool = False) -> float:
    """Return the cubic weight whose step is damped by ``relative`` times the largest Ritz value.

    Args:
        basis: The subspace; its gradient is not zero.
        relative: rho > 0, beyond the pole where there is negative curvature.
        absolute: Whether Ritz values are replaced by their absolute values.
    """
    ritz, gradient, _ = reduced_gradient(basis, absolute=absolute)
    return damped_weight(ritz, gradient, relative * (float(np.abs(ritz).max()) or 1.0))


def damped_weight(ritz: FloatArray, gradient: FloatArray, damping: float) -> float:
    """Return the cubic weight whose step has a given damping.

    Args:
        ritz: Eigenvalues (k,), ascending.
        gradient: (k,), along their vectors; not zero.
        damping: sigma > 0, beyond the pole where there is negative curvature.
    """
    sigma = max(0.0, -float(ritz.min())) + damping
    return 2.0 * sigma / float(np.linalg.norm(gradient / (ritz + sigma)))
