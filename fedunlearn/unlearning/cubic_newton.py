"""Cubic-regularized Newton unlearning, exact over a Krylov subspace.

Source: Bui, Lu, Sim, Ng, Low, "On Newton's Method to Unlearn Neural Networks", arXiv 2406.14507,
section 4; the step of Nesterov and Polyak 2006. This implementation differs in three ways:

- The paper's gradient is grad F_r(w^), so that everything that training left unconverged enters the
  step. Here it is -(n_f/n_r) grad F_f(u) + completion (n/n_r) grad F(w^): the gradient of the
  forget set, and the share of the unfinished training that a retrained model would have too
  (unfinished_training.py). ``gradient = "retained"`` selects the paper's.
- Gradient and curvature are taken at u, a little back towards the initial weights, where the forget
  set is not yet fitted and its gradient is therefore larger; the step is applied at w^.
- The weight M follows from the duration of training (recording/reduced.py) instead of being given,
  and is raised where the objective does not change as predicted. Where the duration is not known it
  is chosen by gain ratio alone.

The defaults were measured on partitions of digits on which no result is reported (README, "Where
the defaults come from").

Rounds: 2 for the gradients, one per product, 1 or 2 for the choice of the weight.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor
from typing_extensions import override

from fedunlearn.settings import NotNegative, Settings
from fedunlearn.solvers.cubic import ReducedStep, solve_reduced
from fedunlearn.solvers.lanczos import KrylovBasis
from fedunlearn.solvers.weight import choose_damping, choose_weight
from fedunlearn.unlearning.influence import Influence
from fedunlearn.unlearning.method import Grid
from fedunlearn.unlearning.subspace import (
    RESIDUAL,
    Chosen,
    SubspaceMethod,
    SubspaceSettings,
    steps_at_once,
)


class CubicNewtonSettings(SubspaceSettings):
    """Settings of cubic-newton.

    Attributes:
        weight: The cubic weight M, or ``auto``: the one whose damping is 1/(2T) for training of a
            time T, or the first multiple of it at which the objective changes as predicted.
    """

    weight: NotNegative | Literal["auto"] = "auto"


class CubicNewton(SubspaceMethod[CubicNewtonSettings]):
    """One or several cubic-regularized Newton steps on the influence objective."""

    name: ClassVar[str] = "cubic-newton"
    settings_type: ClassVar[type[Settings]] = CubicNewtonSettings
    grid: ClassVar[Grid] = {
        "linearise-at": (0.85, 1.0),
        "completion": ("auto", 0.0),
        "weight": ("auto", 0.01),
    }

    @override
    def choose(self, basis: KrylovBasis, influence: Influence, moved: Tensor | None) -> Chosen:
        weight, absolute = self.settings.weight, self.settings.absolute
        if weight != "auto":
            return Chosen(solve_reduced(basis, weight, rtol=RESIDUAL, absolute=absolute))
        at_once = steps_at_once(influence.origin)

        def changes(steps: Tensor) -> Tensor:
            return influence.changes(moved, steps)

        if influence.natural_damping > 0.0:
            choice = choose_damping(
                basis,
                changes,
                influence.natural_damping,
                rtol=RESIDUAL,
                absolute=absolute,
                at_once=at_once,
                resolution=lambda: influence.resolution,
            )
        else:
            choice = choose_weight(
                basis,
                changes,
                rtol=RESIDUAL,
                absolute=absolute,
                at_once=at_once,
                resolution=lambda: influence.resolution,
            )
        return Chosen(choice.chosen.step, choice.candidates)

    @override
    def again(self, basis: KrylovBasis, like: ReducedStep) -> ReducedStep:
        return solve_reduced(basis, like.weight, absolute=self.settings.absolute)

    @property
    @override
    def loss_rounds(self) -> int:
        return 2 if self.settings.weight == "auto" else 0
