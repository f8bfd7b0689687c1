"""The cubic weight M, chosen by how well the model foretells the objective.

The Krylov basis does not depend on M, so a whole grid of candidates costs no product; only the
objective's values at them are asked for, several at once. The gain ratio divides what the
objective did by what the quadratic part of the model foretold (Birgin, Gardenghi, Martinez,
Santos, Toint 2017): unlike the ratio to the cubic model, which tends to 3/2, it tends to 1 as M
grows. A step is acceptable while that ratio stays near 1:

- below the window the objective curves more than the model knows (the usual failure);
- above it the influence objective falls faster than any quadratic, because it is not bounded
  below where the linear term outruns the losses: the step removes more than there was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedunlearn.solvers.cubic import CubicStep, solve_in_basis
from fedunlearn.solvers.lanczos import KrylovBasis

DECADES = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4)
ACCEPTABLE = (0.75, 1.1)
REFINEMENTS = 3

Evaluate = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Candidate:
    """One weight that was tried.

    Attributes:
        step: The step it leads to.
        change: What the objective did.
    """

    step: CubicStep
    change: float

    @property
    def gain(self) -> float:
        """Change of the objective over that of the quadratic model; 1 for no step at all."""
        return self.change / self.step.quadratic if self.step.quadratic else 1.0

    @property
    def acceptable(self) -> bool:
        """Whether the gain lies in the window."""
        return ACCEPTABLE[0] <= self.gain <= ACCEPTABLE[1]


@dataclass(frozen=True)
class WeightChoice:
    """The weight that was chosen and those it was chosen from.

    Attributes:
        chosen: The candidate with the smallest weight down to which all are acceptable; where not
            even the largest is, the one whose gain is nearest to 1.
        candidates: All, by descending weight.
        rounds: How many evaluations were asked for.
    """

    chosen: Candidate
    candidates: tuple[Candidate, ...]
    rounds: int


def choose_weight(basis: KrylovBasis, evaluate: Evaluate, *, absolute: bool = False) -> WeightChoice:
    """Choose M by gain ratio over a grid: decades first, then between the last two.

    Args:
        basis: The subspace.
        evaluate: Maps steps (m, d) to the objective's change for each, (m,).
        absolute: As for ``solve_in_basis``.

    Returns:
        The choice, after one or two calls of ``evaluate``.
    """
    candidates = _candidates(basis, DECADES, evaluate, absolute)
    rounds = 1
    accepted = _accepted(candidates)
    if 0 < accepted < len(candidates):
        high = candidates[accepted - 1].step.weight
        low = candidates[accepted].step.weight
        ratio = (low / high) ** (1.0 / (REFINEMENTS + 1))
        between = [high * ratio**power for power in range(1, REFINEMENTS + 1)]
        candidates += _candidates(basis, between, evaluate, absolute)
        candidates.sort(key=lambda candidate: -candidate.step.weight)
        rounds += 1
        accepted = _accepted(candidates)
    if accepted:
        chosen = candidates[accepted - 1]
    else:
        chosen = min(candidates, key=lambda candidate: abs(candidate.gain - 1.0))
    return WeightChoice(chosen, tuple(candidates), rounds)


def _accepted(candidates: Sequence[Candidate]) -> int:
    """Count the acceptable candidates from the largest weight down to the first that is not."""
    for number, candidate in enumerate(candidates):
        if not candidate.acceptable:
            return number
    return len(candidates)


def _candidates(
    basis: KrylovBasis, weights: Sequence[float], evaluate: Evaluate, absolute: bool
) -> list[Candidate]:
    steps = [solve_in_basis(basis, weight, absolute=absolute) for weight in weights]
    changes = evaluate(torch.stack([step.step for step in steps]))
    return [
        Candidate(step, float(change))
        for step, change in zip(steps, changes, strict=True)
    ]
