"""Stochastic cubic-regularized Newton unlearning (CuReNUS): inner gradient steps on samples.

Source: Bui, Lu, Sim, Ng, Low, arXiv 2406.14507, section 4.3 and algorithm 1 (there SCuReNU),
after Tripuraneni, Stern, Jin, Regier, Jordan 2018. At the current weights w, which are w^ at first,
a sample of every node's examples gives the gradient of F_r, and the products of its Hessian drive
gradient steps on the cubic model, including the cubic term; M is given. This implementation
differs:

- The sample is a share of every node's retained examples and is the same for a whole inner solve; a
  new sample is drawn for each step.
- The inner steps are exact minimisers along their lines, so they have no step size
  (solvers/descent.py); ``conjugate`` directions are an option.

The defaults were measured on digits (ten nodes, Dirichlet 0.1, data seeds 6 to 9): a quarter of the
examples gave the same divergence as all, one step was not enough, more than three did not help, and
the weight hardly mattered from 0.01 to 1. The method is limited there by the paper's gradient,
which follows everything that training left unconverged.

Rounds: for each step one for the gradient and one per product. Memory: ten vectors of length d, for
any number of products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field
from typing_extensions import override

from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.federation.training import OnRound
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.questions.question import Sample
from fedunlearn.risk.products import Curvature
from fedunlearn.settings import Positive, Seed, Settings, Share
from fedunlearn.solvers.cubic import CubicStep, CubicSubproblem
from fedunlearn.solvers.descent import DescentCubicSolver
from fedunlearn.solvers.solution import Status
from fedunlearn.unlearning.influence import require_forgotten
from fedunlearn.unlearning.method import Claim, Grid, Unlearned, UnlearningMethod
from fedunlearn.vectors import norm


class StochasticCubicNewtonSettings(Settings):
    """Settings of stochastic-cubic-newton.

    Attributes:
        weight: The cubic weight M.
        steps: Number of outer steps, each with its own sample.
        products: Number of inner steps of each outer step, one round each.
        product_share: The share of every node's examples from which products are computed.
        gradient_share: The share of every node's examples from which gradients are computed.
        conjugate: Whether the inner steps use conjugate instead of plain gradient directions.
        seed: Seed of the samples and of the search for negative curvature.
    """

    weight: Positive = 1.0
    steps: Annotated[int, Field(gt=0)] = 3
    products: Annotated[int, Field(gt=0)] = 10
    product_share: Share = 0.25
    gradient_share: Share = 0.25
    conjugate: bool = False
    seed: Seed = 0


class StochasticCubicNewton(UnlearningMethod[StochasticCubicNewtonSettings]):
    """Several cubic steps on the objective of the retain set, from samples."""

    name: ClassVar[str] = "stochastic-cubic-newton"
    settings_type: ClassVar[type[Settings]] = StochasticCubicNewtonSettings
    grid: ClassVar[Grid] = {"weight": (0.1, 1.0, 10.0, 100.0), "steps": (1, 3)}

    @override
    def unlearn(
        self,
        trained: TrainedModel,
        federation: Federation,
        forget: ForgetSet,
        *,
        on_round: OnRound | None = None,
    ) -> Unlearned:
        settings = self.settings
        objective = federation.objective(
            forget,
            weight_decay=trained.settings.weight_decay,
            without=forget.leavers,
            step_batch=trained.settings.step_batch,
        )
        solver = DescentCubicSolver(conjugate=settings.conjugate, seed=settings.seed)
        weights = trained.weights.clone()
        steps: list[CubicStep] = []
        label = f"{self.name}: rounds"
        with federation.progress.piece(label, settings.steps * (1 + settings.products)):
            for number in range(settings.steps):
                seed = settings.seed + number
                slope = objective.gradient(weights, Sample.of(settings.gradient_share, seed))
                require_forgotten(objective, forget, None)
                curvature = objective.curvature(
                    weights, Curvature.HESSIAN, Sample.of(settings.product_share, seed)
                )
                problem = CubicSubproblem(curvature, slope, settings.weight)
                step = solver.solve(problem, rtol=1e-3, max_products=settings.products)
                weights = weights + step.step
                steps.append(step)
                if on_round is not None:
                    on_round(objective.rounds, weights)
                if step.status is Status.STATIONARY:
                    break
        moved = norm(weights - trained.weights)
        return Unlearned(
            weights=weights,
            status=status_of(steps),
            claim=Claim.EMPIRICAL,
            details={
                "rounds": objective.rounds,
                "step_norm": moved,
                "steps": [step.as_dict() for step in steps],
            },
        )


def status_of(steps: Sequence[CubicStep]) -> str:
    """Return the outcome in one line; a last step of zero does not undo those before it."""
    taken, last = sum(bool(step.step.any()) for step in steps), steps[-1].status
    if last is Status.STATIONARY and taken:
        return f"converged: after {taken} steps the gradient is zero"
    return last.value
