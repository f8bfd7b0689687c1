"""Cubic-regularized Newton unlearning, exact over a Krylov subspace.

Source: Bui, Lu, Sim, Ng, Low, "On Newton's Method to Unlearn Neural Networks", arXiv 2406.14507,
section 4; the step of Nesterov and Polyak 2006. Ours differs in three ways: the gradient is that
of the influence objective instead of grad F_r (what training left unconverged stays out of the
removal), the weight is found by gain ratio instead of given, and gradient and curvature are taken
a little back towards the initial weights, where the examples that leave are not yet fitted and so
tell more (measured: README, "What was measured").

Rounds: 1 for the gradients, one a product, 1 or 2 to choose the weight.
"""

from __future__ import annotations

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

EXPECTED_LOSS_ROUNDS = 2


class CubicNewtonSettings(Settings):
    """Settings of cubic-newton.

    Attributes:
        gradient: ``departing``: -(n_f/n_r) grad F_f, what leaves tells once.
        curvature: ``ggn``, ``hessian``, or ``hessian-abs``: the Hessian with the absolute values
            of its Ritz values.
        products: Size of the Krylov basis, one round each.
        weight: The cubic weight M, or ``auto``.
        linearise_at: Where gradient and curvature are taken: the share of the way from the
            initial to the trained weights.
    """

    gradient: Literal["departing"] = "departing"
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
        objective = federation.objective(
            forget, weight_decay=trained.settings.weight_decay
        )
        point = trained.towards_start(settings.linearise_at)
        kind = Curvature.GGN if settings.curvature == "ggn" else Curvature.HESSIAN
        rounds = 1 + settings.products + (EXPECTED_LOSS_ROUNDS if settings.weight == "auto" else 0)
        with federation.progress.piece(f"{self.name}: rounds", rounds):
            gradients = objective.gradients(point)
            operator = objective.curvature(point, kind)
            basis: KrylovBasis | None = None
            for basis in lanczos(operator, gradients.departing, settings.products):
                pass
            if basis is None:
                return self._nothing_to_do(trained)
            chosen, tried = self._choose(objective, point, gradients, basis)
        return self._unlearned(trained, gradients, basis, chosen, tried, objective.rounds)

    @property
    def _absolute(self) -> bool:
        return self.settings.curvature == "hessian-abs"

    def _choose(
        self,
        objective: FederatedObjective,
        point: Tensor,
        gradients: Gradients,
        basis: KrylovBasis,
    ) -> tuple[CubicStep, tuple[Candidate, ...]]:
        weight = self.settings.weight
        if weight != "auto":
            return solve_in_basis(basis, weight, absolute=self._absolute), ()
        slope = gradients.retain - gradients.departing  # b of the influence objective

        def change(steps: Tensor) -> Tensor:
            values = objective.losses(point, steps)
            return values[1:] - values[0] - (steps.double() @ slope.double())

        choice = choose_weight(basis, change, absolute=self._absolute)
        return choice.chosen.step, choice.candidates

    def _unlearned(
        self,
        trained: TrainedModel,
        gradients: Gradients,
        basis: KrylovBasis,
        step: CubicStep,
        tried: tuple[Candidate, ...],
        rounds: int,
    ) -> Unlearned:
        if step.status is Status.UNBOUNDED:
            path = ((rounds, trained.weights),)
            return Unlearned(trained.weights, step.status.value, Claim.EMPIRICAL, path)
        shorter = [
            (1 + size, trained.weights + solve_in_basis(
                basis.leading(size), step.weight, absolute=self._absolute
            ).step)
            for size in range(1, basis.size + 1)
        ]
        weights = trained.weights + step.step
        return Unlearned(
            weights=weights,
            status=self._status(step, tried),
            claim=Claim.EMPIRICAL,
            path=((0, trained.weights), *shorter, (rounds, weights)),
            details=_details(step, tried, gradients),
        )

    def _nothing_to_do(self, trained: TrainedModel) -> Unlearned:
        path = ((0, trained.weights),)
        return Unlearned(trained.weights, Status.STATIONARY.value, Claim.EMPIRICAL, path)

    @staticmethod
    def _status(step: CubicStep, tried: tuple[Candidate, ...]) -> str:
        if tried and not any(candidate.acceptable for candidate in tried):
            return (
                "no cubic weight made the model foretell the objective: do not trust the step "
                "alone; add recovery rounds, raise linearise-at, or retrain"
            )
        return step.status.value


def _details(
    step: CubicStep, tried: tuple[Candidate, ...], gradients: Gradients
) -> dict[str, Any]:
    return {
        "weight": step.weight,
        "damping": step.damping,
        "ritz_values": list(step.ritz_values),
        "residual": step.residual,
        "predicted_change": step.predicted,
        "products": step.products,
        "step_norm": float(torch.linalg.vector_norm(step.step.double())),
        "gradient_norm": float(torch.linalg.vector_norm(gradients.departing.double())),
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
