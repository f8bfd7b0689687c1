"""Cubic-regularized Newton unlearning, exact over a Krylov subspace.

Source: Bui, Lu, Sim, Ng, Low, "On Newton's Method to Unlearn Neural Networks", arXiv 2406.14507,
section 4; the step of Nesterov and Polyak 2006. Ours differs in three ways:

- The paper's gradient is grad F_r(w^): all that training left unconverged enters the step. Ours is
  -(n_f/n_r) grad F_f(u) + completion (n/n_r) grad F(w^): what leaves, and a share of what training
  left undone, which a retrained model would not lack. At u = w^, completion 1 is the paper's.
- Gradient and curvature are taken at u, a little back towards the initial weights, where the
  examples that leave are not yet fitted and so tell more; the step is applied at w^.
- The weight M is found by gain ratio instead of given.

Defaults by measurement, over twelve partitions of digits that no result is reported on (README,
"Where the defaults come from").

Rounds: 2 for the gradients, one a product, 1 or 2 to choose the weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedunlearn.federation.federation import Federation, TrainedModel
from fedunlearn.federation.forget import ForgetSet
from fedunlearn.federation.objective import FederatedObjective, Gradients
from fedunlearn.risk.products import Curvature
from fedunlearn.scenario.settings import NotNegative, Settings, Share
from fedunlearn.solvers.cubic import CubicStep, Status, solve_in_basis
from fedunlearn.solvers.lanczos import lanczos
from fedunlearn.solvers.weight import Candidate, choose_weight
from fedunlearn.unlearning.method import Claim, Unlearned, UnlearningMethod

LOSS_ROUNDS = 2
# Relative residual from which a step counts as converged; the usual demand on inexact Newton steps.
RESIDUAL = 0.1

OptionalShare = Annotated[float, Field(ge=0, le=1, strict=False)]


class CubicNewtonSettings(Settings):
    """Settings of cubic-newton.

    Attributes:
        gradient: ``departing``: -(n_f/n_r) grad F_f, told once by what leaves.
        completion: The share of grad F(w^) that the step also follows; 0 leaves out all that
            training left unconverged.
        curvature: ``ggn``, ``hessian``, or ``hessian-abs``: the Hessian with the absolute values
            of its Ritz values.
        products: Size of the Krylov basis, one round each.
        weight: The cubic weight M, or ``auto``.
        linearise_at: Where gradient and curvature are taken: the share of the way from the
            initial to the trained weights.
        steps: How many steps, each with a basis of its own. More than one where the objective is
            convex and training converged; on networks G is not bounded below, and later steps
            lead astray.
    """

    gradient: Literal["departing"] = "departing"
    completion: OptionalShare = 0.3
    curvature: Literal["ggn", "hessian", "hessian-abs"] = "ggn"
    products: Annotated[int, Field(gt=0)] = 10
    weight: NotNegative | Literal["auto"] = "auto"
    linearise_at: Share = 0.85
    steps: Annotated[int, Field(gt=0)] = 1


class CubicNewton(UnlearningMethod[CubicNewtonSettings]):
    """One cubic-regularized Newton step, or several, on the influence objective."""

    name: ClassVar[str] = "cubic-newton"
    settings_type: ClassVar[type[Settings]] = CubicNewtonSettings

    @override
    def unlearn(
        self, trained: TrainedModel, federation: Federation, forget: ForgetSet
    ) -> Unlearned:
        settings = self.settings
        objective = federation.objective(forget, weight_decay=trained.settings.weight_decay)
        with federation.progress.piece(f"{self.name}: rounds", self._expected_rounds):
            start = self._start(objective, trained)
            moved = torch.zeros_like(trained.weights)
            path = [(0, trained.weights)]
            slope, taken = start.slope, None
            for number in range(settings.steps):
                if number:
                    slope = objective.gradient(start.point + moved) - start.linear
                if not slope.any():
                    break
                taken = self._step(objective, start, moved, slope)
                if taken.step.status is Status.UNBOUNDED:
                    break
                path += [(rounds, trained.weights + moved + step) for rounds, step in taken.path]
                moved = moved + taken.step.step
        status = taken.status if taken else Status.STATIONARY.value
        return Unlearned(
            weights=trained.weights + moved,
            status=status,
            claim=Claim.EMPIRICAL,
            path=(*path, (objective.rounds, trained.weights + moved)),
            details=_details(taken, start),
        )

    @property
    def _expected_rounds(self) -> int:
        settings = self.settings
        to_choose = LOSS_ROUNDS if settings.weight == "auto" else 0
        at_start = 1 if settings.linearise_at == 1.0 else 2
        return at_start - 1 + settings.steps * (1 + settings.products + to_choose)

    def _start(self, objective: FederatedObjective, trained: TrainedModel) -> _Start:
        """Ask for the gradients: at w^ what training left undone, at u what leaves."""
        settings = self.settings
        point = trained.towards_start(settings.linearise_at)
        at_end = at_point = objective.gradients(trained.weights)
        if settings.linearise_at < 1.0:
            at_point = objective.gradients(point)
        share = settings.completion * (at_end.retained + at_end.forgotten) / at_end.retained
        slope = at_point.departing + share * at_end.whole
        return _Start(point, slope, at_point.retain - slope, at_end)

    def _step(
        self, objective: FederatedObjective, start: _Start, moved: Tensor, slope: Tensor
    ) -> _Taken:
        """Minimise the cubic model around u + moved."""
        settings = self.settings
        absolute = settings.curvature == "hessian-abs"
        kind = Curvature.GGN if settings.curvature == "ggn" else Curvature.HESSIAN
        point = start.point + moved
        before = objective.rounds
        *_, basis = lanczos(objective.curvature(point, kind), slope, settings.products)

        def change(steps: Tensor) -> Tensor:
            values = objective.losses(point, steps)
            return values[1:] - values[0] - steps.double() @ start.linear.double()

        if settings.weight == "auto":
            choice = choose_weight(basis, change, rtol=RESIDUAL, absolute=absolute)
            step, tried = choice.chosen.step, choice.candidates
        else:
            step = solve_in_basis(basis, settings.weight, rtol=RESIDUAL, absolute=absolute)
            tried = ()
        path = tuple(
            (
                before + size,
                solve_in_basis(basis.leading(size), step.weight, absolute=absolute).step,
            )
            for size in range(1, basis.size + 1)
        )
        return _Taken(step, tried, _norm(slope), path)


@dataclass(frozen=True)
class _Start:
    """The influence objective G(w) = F_r(w) - <b, w>.

    Attributes:
        point: u, where it is set up: (d,).
        slope: grad G(u): (d,).
        linear: b: (d,).
        at_end: Gradients at w^.
    """

    point: Tensor
    slope: Tensor
    linear: Tensor
    at_end: Gradients


@dataclass(frozen=True)
class _Taken:
    """One step and how it came about.

    Attributes:
        step: The step.
        tried: Candidates for the weight; none where it was given.
        slope_norm: ||g||.
        path: Rounds so far, and the step that so many products would have given.
    """

    step: CubicStep
    tried: tuple[Candidate, ...]
    slope_norm: float
    path: tuple[tuple[int, Tensor], ...]

    @property
    def status(self) -> str:
        if self.tried and not any(candidate.acceptable for candidate in self.tried):
            return (
                "no cubic weight made the model foretell the objective: do not trust the step "
                "alone; add recovery rounds, raise linearise-at, or retrain"
            )
        return self.step.status.value


def _details(taken: _Taken | None, start: _Start) -> dict[str, Any]:
    """Describe the last step."""
    gradient = {"gradient_norm_at_trained": _norm(start.at_end.whole)}
    if taken is None:
        return gradient
    step = taken.step
    return gradient | {
        "weight": step.weight,
        "damping": step.damping,
        "ritz_values": list(step.ritz_values),
        "residual": step.residual,
        "predicted_change": step.predicted,
        "products": step.products,
        "step_norm": _norm(step.step),
        "gradient_norm": taken.slope_norm,
        "candidates": [
            {
                "weight": candidate.step.weight,
                "gain": candidate.gain,
                "damping": candidate.step.damping,
                "acceptable": candidate.acceptable,
            }
            for candidate in taken.tried
        ],
    }


def _norm(vector: Tensor) -> float:
    return float(torch.linalg.vector_norm(vector.double()))
