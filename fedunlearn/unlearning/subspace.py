"""The base of the Newton methods: gradient, Krylov space, and the step that a method chooses.

Source: Bui, Lu, Sim, Ng, Low, "On Newton's Method to Unlearn Neural Networks", arXiv 2406.14507.
The methods differ only in how they minimise the quadratic model in the same space, so that a
comparison of them compares nothing else.

Memory of the server, in floats of the model's dtype, at the last of k products: (k + 7) d. Besides
the basis these are w0, w^, u, b, the current answer, and its float64 sum, which counts twice. With
``basis = "two-pass"`` it is about 12 d, at k - 1 more rounds each time that steps are made from the
basis.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import Recordable, TrainedModel
from fedunlearn.federation.training import OnRound
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.questions.question import Sample
from fedunlearn.risk.products import Curvature
from fedunlearn.settings import Settings, Share
from fedunlearn.solvers.cubic import ReducedStep, lift
from fedunlearn.solvers.lanczos import KrylovBasis, StoredBasis, lanczos
from fedunlearn.solvers.solution import Status
from fedunlearn.solvers.two_pass import two_pass_lanczos
from fedunlearn.solvers.weight import Candidate
from fedunlearn.unlearning.influence import (
    Completion,
    Influence,
    NodeWeights,
    Source,
    open_influence,
    to_record,
)
from fedunlearn.unlearning.method import Claim, Unlearned, UnlearningMethod

# Relative residual at which a step counts as converged; the usual tolerance of inexact Newton
# steps.
RESIDUAL = 0.1
# Memory of the steps that are held, and sent, at the same time.
STEPS_BYTES = 96 * 2**20


class SubspaceSettings(Settings):
    """Settings of every method that steps in a Krylov space.

    Attributes:
        gradient: ``departing``: the nodes that hold the forget set send its gradient once;
            ``recorded``: from the sum that was recorded when training ended, so that only the nodes
            that stay must answer; ``retained``: the paper's, that of the objective on the retain
            set. See influence.py.
        completion: The share of grad F(w^) that the step also follows: a number, where 0 leaves out
            everything that training left undone, or ``auto``, which follows as much of it as a
            retrained model would (unfinished_training.py). Not used by ``retained``, which follows
            all of it.
        curvature: ``ggn``, ``hessian``, or ``hessian-abs``: the Hessian with the absolute values
            of its Ritz values.
        products: Size k of the Krylov basis; each product takes one round.
        product_share: The share of every node's examples from which products are computed, the same
            for a whole basis. Below 1 they are cheaper and noisier.
        basis: ``stored``, or ``two-pass`` where k vectors do not fit into the server's memory.
        linearise_at: The point where curvature and, except for ``retained``, the gradient are
            taken: the share of the way from the initial to the trained weights.
        node_weights: Whether nodes count by their ``steps``, as in federated averaging, where a
            small node takes fewer of them, or by their ``examples``.
        steps: Number of steps, each with its own basis. Use more than one only where the objective
            is convex and training converged; on networks G is not bounded below, and later steps
            diverge.
    """

    gradient: Source = "departing"
    completion: Completion = "auto"
    curvature: Literal["ggn", "hessian", "hessian-abs"] = "ggn"
    products: Annotated[int, Field(gt=0)] = 10
    product_share: Share = 1.0
    basis: Literal["stored", "two-pass"] = "stored"
    linearise_at: Share = 1.0
    node_weights: NodeWeights = "steps"
    steps: Annotated[int, Field(gt=0)] = 1

    @property
    def absolute(self) -> bool:
        """Whether Ritz values are replaced by their absolute values."""
        return self.curvature == "hessian-abs"

    @property
    def kind(self) -> Curvature:
        """The kind of products that nodes compute."""
        return Curvature.GGN if self.curvature == "ggn" else Curvature.HESSIAN


S = TypeVar("S", bound=SubspaceSettings)


@dataclass(frozen=True, eq=False)
class Chosen:
    """A step in the basis, and the candidates from which it was chosen.

    Attributes:
        step: The step.
        tried: Candidates that were evaluated; empty where none was.
    """

    step: ReducedStep
    tried: tuple[Candidate, ...] = ()

    @property
    def status(self) -> str:
        """The outcome in one line, with the remedy."""
        if self.tried and not any(candidate.acceptable for candidate in self.tried):
            return (
                "no cubic weight made the model predict the objective: do not trust the step "
                "alone; add recovery rounds, raise linearise-at, or retrain"
            )
        return self.step.status.value

    @property
    def change(self) -> float | None:
        """The change of the objective at the step, if it was evaluated."""
        changes = [candidate.change for candidate in self.tried if candidate.step is self.step]
        return changes[0] if changes else None


class SubspaceMethod(UnlearningMethod[S]):
    """One or several steps in the Krylov space of gradient and curvature."""

    @abstractmethod
    def choose(self, basis: KrylovBasis, influence: Influence, moved: Tensor | None) -> Chosen:
        """Minimise the model in a basis.

        Args:
            basis: The basis of the gradient at origin + moved; the gradient is not zero.
            influence: The influence objective, which evaluates steps.
            moved: The sum (d,) of the earlier steps; None where there are none.
        """

    @abstractmethod
    def again(self, basis: KrylovBasis, like: ReducedStep) -> ReducedStep:
        """Return the step of a smaller basis, with the same weight and settings."""

    @property
    def loss_rounds(self) -> int:
        """Number of rounds that the choice of one step is expected to take."""
        return 0

    @override
    def to_record(self) -> tuple[Recordable, ...]:
        return to_record(
            self.settings.gradient, self.settings.linearise_at, self.settings.node_weights
        )

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
        chosen: Chosen | None = None
        slope_norm, products = 0.0, 0
        with federation.progress.piece(f"{self.name}: rounds", self._expected_rounds):
            influence = open_influence(
                trained,
                federation,
                forget,
                source=settings.gradient,
                completion=settings.completion,
                linearise_at=settings.linearise_at,
                node_weights=settings.node_weights,
            )
            moved: Tensor | None = None
            for number in range(settings.steps):
                before = influence.objective.rounds + (number > 0)
                basis = self._basis(influence, moved, number)
                if basis is None:
                    break
                chosen = self.choose(basis, influence, moved)
                slope_norm, products = float(basis.gradient[0]), basis.products
                if chosen.step.status is Status.UNBOUNDED:
                    break
                if on_round is not None and isinstance(basis, StoredBasis):
                    so_far = trained.weights if moved is None else trained.weights + moved
                    for size in range(1, basis.size):
                        smaller = basis.leading(size)
                        (step,) = lift(smaller, [self.again(smaller, chosen.step)])
                        on_round(before + size, so_far + step)
                (step,) = lift(basis, [chosen.step])
                moved = step if moved is None else moved + step
                products = basis.products  # a replayed basis spends some on the lift
                del basis
        weights = trained.weights.clone() if moved is None else trained.weights + moved
        rounds = influence.objective.rounds
        if on_round is not None:
            on_round(rounds, weights)
        return Unlearned(
            weights=weights,
            status=_status(chosen, influence, moved),
            claim=Claim.EMPIRICAL,
            details=_details(chosen, influence, slope_norm, products),
        )

    @property
    def _expected_rounds(self) -> int:
        settings = self.settings
        at_start = 2 if settings.gradient == "departing" and settings.linearise_at < 1.0 else 1
        return at_start - 1 + settings.steps * (1 + settings.products + self.loss_rounds)

    def _basis(self, influence: Influence, moved: Tensor | None, number: int) -> KrylovBasis | None:
        """Compute the basis of one step with its products; None where the gradient is zero."""
        settings = self.settings
        sample = Sample.of(settings.product_share, seed=number)
        point = influence.curved_at if moved is None else influence.curved_at + moved
        curvature = influence.objective.curvature(point, settings.kind, sample)
        grow = lanczos if settings.basis == "stored" else two_pass_lanczos
        slope = influence.slope(moved)
        if not slope.any():
            return None
        bases = grow(curvature, slope, settings.products)
        del slope  # Lanczos frees it as soon as it has its first vector
        (last,) = deque(bases, maxlen=1)
        return last


def steps_at_once(vector: Tensor) -> int:
    """Return how many steps of the shape of a vector may be held, and sent, at the same time."""
    return max(1, STEPS_BYTES // vector.nbytes)


def _status(chosen: Chosen | None, influence: Influence, moved: Tensor | None) -> str:
    """Return the outcome in one line: what was done, and the remedy for what was found."""
    if chosen is None:
        return Status.STATIONARY.value
    status = chosen.status
    if chosen.step.status is Status.UNBOUNDED and moved is not None:
        status = f"earlier steps were taken, a further one was not: {status}"
    remark = influence.undone.remark if influence.undone else None
    if remark is None:
        return status
    if status == Status.CONVERGED.value:
        return f"the step met its tolerance, but {remark}"
    return f"{status}; {remark}"


def _details(
    chosen: Chosen | None, influence: Influence, slope_norm: float, products: int
) -> dict[str, Any]:
    """Return the details of the last step."""
    details: dict[str, Any] = {"rounds": influence.objective.rounds}
    if influence.undone is not None:
        details |= influence.undone.as_dict()
    if chosen is None:
        return details
    candidates: Sequence[Candidate] = chosen.tried
    details |= chosen.step.as_dict() | {
        "products": products,
        "step_norm": float((chosen.step.coordinates**2).sum() ** 0.5),
        "gradient_norm": slope_norm,
        "candidates": [candidate.as_dict() for candidate in candidates],
    }
    if chosen.change is not None and math.isfinite(chosen.change):
        details["actual"] = chosen.change
    return details
