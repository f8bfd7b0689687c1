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

from fedunlearn.federation.federation import Federation, TrainedModel
from fedunlearn.federation.forget import ForgetSet
from fedunlearn.federation.objective import FederatedObjective, Gradients
from fedunlearn.risk.products import Curvature
from fedunlearn.scenario.settings import NotNegative, Settings, Share
from fedunlearn.solvers.cubic import CubicStep, Status, solve_in_basis
from fedunlearn.solvers.lanczos import KrylovBasis, lanczos
from fedunlearn.solvers.weight import Candidate, choose_weight
from fedunlearn.unlearning.method import Claim, Unlearned, UnlearningMethod

LOSS_ROUNDS = 2

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
    """

    gradient: Literal["departing"] = "departing"
    completion: OptionalShare = 0.3
    curvature: Literal["ggn", "hessian", "hessian-abs"] = "ggn"
    products: Annotated[int, Field(gt=0)] = 10
    weight: NotNegative | Literal["auto"] = "auto"
    linearise_at: Share = 0.85


class CubicNewton(UnlearningMethod[CubicNewtonSettings]):
    """One cubic-regularized Newton step on the influence objective."""

    name: ClassVar[str] = "cubic-newton"
    settings_type: ClassVar[type[Settings]] = CubicNewtonSettings

    def unlearn(  # noqa: D102 (inherited)
        self, trained: TrainedModel, federation: Federation, forget: ForgetSet
    ) -> Unlearned:
        settings = self.settings
        objective = federation.objective(forget, weight_decay=trained.settings.weight_decay)
        kind = Curvature.GGN if settings.curvature == "ggn" else Curvature.HESSIAN
        rounds = 2 + settings.products + (LOSS_ROUNDS if settings.weight == "auto" else 0)
        with federation.progress.piece(f"{self.name}: rounds", rounds):
            start = self._start(objective, trained)
            operator = objective.curvature(start.point, kind)
            basis: KrylovBasis | None = None
            for basis in lanczos(operator, start.slope, settings.products):
                pass
            if basis is None:
                return self._nothing_to_do(trained, objective.rounds)
            step, tried = self._choose(objective, start, basis)
        return self._unlearned(trained, start, basis, step, tried, objective.rounds)

    def _start(self, objective: FederatedObjective, trained: TrainedModel) -> _Start:
        """Ask for the gradients: at w^ what training left undone, at u what leaves."""
        point = trained.towards_start(self.settings.linearise_at)
        completion = self.settings.completion
        at_end = at_point = objective.gradients(trained.weights)
        if self.settings.linearise_at < 1.0:
            at_point = objective.gradients(point)
        share = completion * (at_end.retained + at_end.forgotten) / at_end.retained
        return _Start(point, at_point.departing + share * at_end.whole, at_point, at_end)

    @property
    def _absolute(self) -> bool:
        return self.settings.curvature == "hessian-abs"

    def _choose(
        self,
        objective: FederatedObjective,
        start: _Start,
        basis: KrylovBasis,
    ) -> tuple[CubicStep, tuple[Candidate, ...]]:
        weight = self.settings.weight
        if weight != "auto":
            return solve_in_basis(basis, weight, absolute=self._absolute), ()
        linear = (start.at_point.retain - start.slope).double()  # b of G(w) = F_r(w) - <b, w>

        def change(steps: Tensor) -> Tensor:
            values = objective.losses(start.point, steps)
            return values[1:] - values[0] - steps.double() @ linear

        choice = choose_weight(basis, change, absolute=self._absolute)
        return choice.chosen.step, choice.candidates

    def _unlearned(
        self,
        trained: TrainedModel,
        start: _Start,
        basis: KrylovBasis,
        step: CubicStep,
        tried: tuple[Candidate, ...],
        rounds: int,
    ) -> Unlearned:
        if step.status is Status.UNBOUNDED:
            path = ((rounds, trained.weights),)
            return Unlearned(trained.weights, step.status.value, Claim.EMPIRICAL, path)
        asked = 1 if start.at_point is start.at_end else 2
        shorter = [
            (
                asked + size,
                trained.weights
                + solve_in_basis(basis.leading(size), step.weight, absolute=self._absolute).step,
            )
            for size in range(1, basis.size + 1)
        ]
        weights = trained.weights + step.step
        return Unlearned(
            weights=weights,
            status=self._status(step, tried),
            claim=Claim.EMPIRICAL,
            path=((0, trained.weights), *shorter, (rounds, weights)),
            details=_details(step, tried, start),
        )

    @staticmethod
    def _nothing_to_do(trained: TrainedModel, rounds: int) -> Unlearned:
        path = ((0, trained.weights), (rounds, trained.weights))
        return Unlearned(trained.weights, Status.STATIONARY.value, Claim.EMPIRICAL, path)

    @staticmethod
    def _status(step: CubicStep, tried: tuple[Candidate, ...]) -> str:
        if tried and not any(candidate.acceptable for candidate in tried):
            return (
                "no cubic weight made the model foretell the objective: do not trust the step "
                "alone; add recovery rounds, raise linearise-at, or retrain"
            )
        return step.status.value


@dataclass(frozen=True)
class _Start:
    """What the gradients say.

    Attributes:
        point: u, where curvature is taken: (d,).
        slope: g of the cubic model: (d,).
        at_point: Gradients at u.
        at_end: Gradients at w^.
    """

    point: Tensor
    slope: Tensor
    at_point: Gradients
    at_end: Gradients


def _details(step: CubicStep, tried: tuple[Candidate, ...], start: _Start) -> dict[str, Any]:
    return {
        "weight": step.weight,
        "damping": step.damping,
        "ritz_values": list(step.ritz_values),
        "residual": step.residual,
        "predicted_change": step.predicted,
        "products": step.products,
        "step_norm": _norm(step.step),
        "gradient_norm": _norm(start.slope),
        "gradient_norm_at_trained": _norm(start.at_end.whole),
        "candidates": [
            {
                "weight": candidate.step.weight,
                "gain": candidate.gain,
                "damping": candidate.step.damping,
                "acceptable": candidate.acceptable,
            }
            for candidate in tried
        ],
    }


def _norm(vector: Tensor) -> float:
    return float(torch.linalg.vector_norm(vector.double()))
