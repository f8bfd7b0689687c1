"""A removal as algebra in q dimensions: the cubic step of a forget set, from sums alone.

With Q (d, q) the recorded directions, u the point where they were recorded, g_f and H_f the sums
over all examples removed so far, H_r the sum over the retain set, weighted by the steps of their
nodes (questions/step_weights.py), and q_f and q_r the masses of examples, the influence
objective of F_r around u (unlearning/influence.py) restricted to u + Q y is

    m(y) = <g, y> + 1/2 <y, H y> + (M/6) |y|^3,
    g = -(Q'g_f + lambda q_f Q'u) / q_r + c (q/q_r) Q'grad F(u),    H = Q'H_r Q / q_r + lambda I.

The completion c is n_f/n where u is the trained model, so that the step follows the difference of
what training and retraining followed (unlearning/unfinished_training.py). It is 0 elsewhere, since
grad F is not recorded at the trained model then.

The model does not depend on the order of removals, so a sequence of removals is the same as all of
them at once.

The weight. Training for a finite time holds the weights near their start in the same way as a term
(mu/2)|w - w0|^2 with mu = 1/T, where T is the sum of the step sizes (Ali, Kolter, Tibshirani 2019):
directions whose curvature is far below 1/T were not learned, and the removed examples cannot have
moved them far. So M is the weight whose damping (M/2)|y| is 1/(2T). The factor 1/2 was measured; it
is as good as gradient flow's own (1 - exp(-hT))/h in place of 1/(h + mu).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedunlearn.questions.subspace_summary import FloatArray, Summary
from fedunlearn.solvers.cubic import ReducedStep, solve_projected, spectrum
from fedunlearn.solvers.weight import damped_weight


@dataclass(frozen=True, eq=False)
class ReducedProblem:
    """The cubic model of a removal, without its weight.

    Attributes:
        gradient: The gradient g, shape (q,).
        curvature: The curvature H, shape (q, q).
        absolute: Whether Ritz values are replaced by their absolute values; see ``spectrum``.
    """

    gradient: FloatArray
    curvature: FloatArray
    absolute: bool

    @classmethod
    def of(
        cls,
        stays: Summary,
        left: FloatArray,
        mass: float,
        point: FloatArray,
        *,
        weight_decay: float,
        absolute: bool,
        completion: float = 0.0,
    ) -> ReducedProblem:
        """Return the model.

        Args:
            stays: Sums over the retain set, which has at least one example.
            left: The gradient sum Q'g_f of all removed examples, (q,).
            mass: The mass q_f of the removed examples.
            point: The point Q'u, (q,).
            weight_decay: The weight decay lambda.
            absolute: Whether Ritz values are replaced by their absolute values; see ``spectrum``.
            completion: The share c of (q/q_r) grad F(u) that the step follows too.
        """
        size = len(left)
        gradient = -(left + weight_decay * mass * point) / stays.mass
        if completion:
            whole = stays.gradient + left + weight_decay * (stays.mass + mass) * point
            gradient += completion * whole / stays.mass
        return cls(
            gradient=gradient,
            curvature=stays.curvature / stays.mass + weight_decay * np.eye(size),
            absolute=absolute,
        )

    def damped(self, damping: float) -> ReducedStep:
        """Return the cubic step whose weight gives this damping, beyond a pole if there is one."""
        ritz, along, _ = spectrum(self.curvature, self.gradient, absolute=self.absolute)
        if not along.any():
            return self.weighted(0.0)
        return self.weighted(damped_weight(ritz, along, damping))

    def weighted(self, weight: float) -> ReducedStep:
        """Return the global minimiser for a cubic weight M >= 0."""
        return solve_projected(self.curvature, self.gradient, weight, absolute=self.absolute)


def natural_damping(horizon: float) -> float:
    """Return 1/(2T), the damping of training that went as far as gradient flow in a time T."""
    return 0.5 / horizon
