"""Certified removal from a linear head: a Newton step whose error the noise of training hides.

Source: Guo, Goldstein, Hannun, van der Maaten, "Certified Data Removal from Machine Learning
Models", ICML 2020 (arXiv 1911.03030), algorithms 1 and 2. Training minimises the sum

    L_b(W; D) = sum of logistic losses, each class against the rest + (lambda n/2)|W|^2 + <b, W>

with b drawn once from N(0, sigma^2 I). A removal takes one Newton step on what stays, D':
W+ = W - H^-1 g with H and g the curvature and the gradient of L_b(.; D') at W. With inputs X of
length 1 at most, the gradient that is left of the class j is at most

    beta_j = (1/4) |X|_2 |s_j| |X s_j|        s = W+ - W      (corollary 2, data-dependent)

since the second derivative of the logistic loss has the Lipschitz constant 1/4. By theorem 3 the
model is (epsilon, delta)-indistinguishable from one that was trained on D', for a party that does
not know b, while what is left of the gradient is at most

    sigma epsilon / sqrt(2 log(1.5 / delta))

The bounds are added up over removals, with the gradient that training left, as algorithm 2 does.
All classes are one vector W with one b, so that the norm over classes counts.

Who must not know b: the party against which the certificate is to hold. The server draws and stores
b. Nodes never receive it, but see the weights of every step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from typing_extensions import override

from fedunlearn.errors import InputError, NotRecordedError
from fedunlearn.federation.accounting import Meter
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.head import (
    FittedHead,
    HeadFit,
    fit_head,
    head_of,
    retain_derivatives,
    to_flat,
    to_rows,
    total_moments,
)
from fedunlearn.federation.trained_model import Recordable, Recorded, TrainedModel
from fedunlearn.federation.training import OnRound
from fedunlearn.parameters import digest
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.questions.heads import Head
from fedunlearn.questions.subspace_summary import FloatArray
from fedunlearn.recording.head_recording import CertifiedRecording, joined
from fedunlearn.settings import Settings, TrainingSettings
from fedunlearn.unlearning.method import Claim, Unlearned, UnlearningMethod

# Lipschitz constant of the second derivative of the logistic loss, as the source has it.
LIPSCHITZ = 0.25
# Bound of the derivative of the logistic loss.
DERIVATIVE = 1.0


class CertifiedHeadSettings(Settings):
    """Settings of certified-head.

    Attributes:
        epsilon: The certificate's epsilon, at most 1: the bound of the Gaussian noise needs that.
        delta: The certificate's delta.
        exhausted: What follows when the bounds exceed the budget: ``retrain`` trains anew on what
            stays, with a new b; ``refuse`` ends with an error.
    """

    epsilon: Annotated[float, Field(gt=0, le=1, strict=False)] = 1.0
    delta: Annotated[float, Field(gt=0, lt=1, strict=False)] = 1e-4
    exhausted: Literal["retrain", "refuse"] = "retrain"

    def budget(self, sigma: float) -> float:
        """Return the largest gradient norm that noise of this deviation hides (theorem 3)."""
        return sigma * self.epsilon / math.sqrt(2.0 * math.log(1.5 / self.delta))


@dataclass(frozen=True)
class CertifiedRecorder:
    """A request for the recording."""

    def __str__(self) -> str:
        """Return the name for messages."""
        return "perturbation and second moments for certified removal"

    def record(self, trained: TrainedModel, federation: Federation) -> CertifiedRecording | None:
        """Request X'X from all nodes: one round.

        Returns:
            The recording; None where the noise of training is not known any more.
        """
        settings = trained.settings
        head = _head(federation, settings)
        fitted = trained.recorded.get(FittedHead())
        if fitted is None and settings.perturbation_seed is None:
            return None
        objective = federation.objective(ForgetSet.of_nodes(), weight_decay=settings.weight_decay)
        with federation.progress.piece("recording", 1):
            moments = total_moments(objective, head, trained.weights)
        fit = FittedHead().record(trained, federation) if fitted is None else fitted.value
        return _recording(trained, fit, moments.square)


class CertifiedHead(UnlearningMethod[CertifiedHeadSettings]):
    """One Newton step, certified while the bounds of what it leaves fit the noise of training."""

    name: ClassVar[str] = "certified-head"
    settings_type: ClassVar[type[Settings]] = CertifiedHeadSettings

    @override
    def to_record(self) -> tuple[Recordable, ...]:
        return (CertifiedRecorder(),)

    @override
    def unlearn(
        self,
        trained: TrainedModel,
        federation: Federation,
        forget: ForgetSet,
        *,
        on_round: OnRound | None = None,
    ) -> Unlearned:
        settings = trained.settings
        head = _head(federation, settings)
        (recordable,) = self.to_record()
        recording: CertifiedRecording | None = trained.recording(recordable, "use retrain")
        if recording is None:
            why = "the noise of training was not stored with the model"
            with federation.measure() as meter:
                return self._anew(trained, federation, forget, why, on_round, meter, None)
        if recording.model != digest(trained.weights):
            raise NotRecordedError(
                "the recording for certified removal belongs to another model than the one given; "
                "give the model that training or the last removal returned, or use retrain"
            )
        now = forget.following(recording.gone)
        objective = federation.objective(
            now, weight_decay=settings.weight_decay, without=now.leavers
        )
        with federation.measure() as meter:
            here = retain_derivatives(objective, head, recording.weights, recording.perturbation)
            count = objective.retained
            step = here.newton_step()
            left = np.concatenate(
                [block @ part for block, part in zip(here.blocks, _split(step, head), strict=True)]
            )
            unsolved = count * float(np.linalg.norm(here.gradient + left))
            rows = recording.weights + step.reshape(recording.weights.shape)
            bound = gradient_bound(recording.square, step.reshape(rows.shape)) + unsolved
            weights = to_flat(head, rows, trained.weights)
            rounding = _smoothness(recording.square, count * settings.weight_decay) * float(
                np.linalg.norm(to_rows(head, weights) - rows)
            )
            spent = recording.spent + bound
            budget = self.settings.budget(settings.perturbation)
            if spent + rounding > budget:
                why = (
                    f"the bounds of the removals would add up to {spent + rounding:.3g}, and the "
                    f"noise hides {budget:.3g}"
                )
                return self._anew(trained, federation, forget, why, on_round, meter, recording)
        if on_round is not None:
            on_round(meter.rounds, weights)
        after = replace(
            recording,
            weights=rows,
            spent=spent,
            model=digest(weights),
            gone=joined(recording.gone, forget),
        )
        recorded = {
            **trained.recorded,
            recordable: replace(trained.recorded[recordable], value=after),
        }
        return Unlearned(
            weights=weights,
            status=f"certified: epsilon {self.settings.epsilon:g}, delta {self.settings.delta:g}, "
            f"{(spent + rounding) / budget:.1%} of the noise's budget is spent"
            + (
                ""
                if settings.perturbation_seed is None
                else "; perturbation-seed is set, so it holds only where that is not known"
            ),
            claim=Claim.CERTIFIED,
            details={
                "rounds": meter.rounds,
                "epsilon": self.settings.epsilon,
                "delta": self.settings.delta,
                "theorem": "Guo et al. 2020, theorem 3 and corollary 2",
                "gradient_bound": bound,
                "gradient_bounds_so_far": spent + rounding,
                "budget": budget,
                "step_norm": float(np.linalg.norm(step)),
            },
            trained=replace(trained, weights=weights, recorded=recorded),
        )

    def _anew(
        self,
        trained: TrainedModel,
        federation: Federation,
        forget: ForgetSet,
        why: str,
        on_round: OnRound | None,
        meter: Meter,
        recording: CertifiedRecording | None,
    ) -> Unlearned:
        """Train anew with a new b, or refuse."""
        settings = trained.settings
        if self.settings.exhausted == "refuse":
            raise InputError(
                f"certified-head: {why}; retrain (exhausted = 'retrain'), or train with a larger "
                "perturbation or weight-decay"
            )
        head = _head(federation, settings)
        gone = recording.gone if recording else ()
        draws = 1 + (recording.draws if recording else 0)
        now = forget.following(gone)
        if recording is None:
            objective = federation.objective(
                now, weight_decay=settings.weight_decay, without=now.leavers
            )
            square = total_moments(objective, head, trained.weights).square
        else:
            square = recording.square
        fit = fit_head(
            federation,
            trained.weights,
            settings,
            seed=settings.seed,
            without=now,
            label=f"{self.name}: retraining",
            draw=draws,
        )
        weights = to_flat(head, fit.solution.weights, trained.weights)
        (recordable,) = self.to_record()
        fresh = replace(trained, weights=weights, recorded={})
        after = replace(_recording(fresh, fit, square), gone=joined(gone, forget), draws=draws)
        recorded: dict[Recordable, Recorded] = {
            **trained.recorded,
            FittedHead(): Recorded(fit, trained.recorded[recordable].spent),
            recordable: replace(trained.recorded[recordable], value=after),
        }
        if on_round is not None:
            on_round(meter.rounds, weights)
        return Unlearned(
            weights=weights,
            status=f"retrained with new noise: {why}",
            claim=Claim.EXACT_RETRAIN,
            details={
                "rounds": meter.rounds,
                "gradient_bounds_so_far": after.spent,
                "budget": self.settings.budget(settings.perturbation),
            },
            trained=replace(fresh, recorded=recorded),
        )


def gradient_bound(square: FloatArray, step: FloatArray) -> float:
    """Return the bound of what a Newton step leaves of the gradient of L_b (corollary 2).

    Args:
        square: X'X (p, p) of the examples that stay, or of more.
        step: The step (k, p).

    Returns:
        The norm over classes of (1/4) |X|_2 |s_j| |X s_j|.
    """
    largest = math.sqrt(max(0.0, float(np.linalg.eigvalsh(square)[-1])))
    along = np.sqrt(np.maximum(0.0, np.einsum("ji,ik,jk->j", step, square, step)))
    return float(np.linalg.norm(LIPSCHITZ * largest * np.linalg.norm(step, axis=1) * along))


def worst_case_bound(removed: int, retained: int, weight_decay: float, classes: int = 1) -> float:
    """Return the bound of theorem 4, which holds for all data and a minimiser before the step.

    Args:
        removed: Number m of removed examples.
        retained: Number n - m of those that stay.
        weight_decay: The weight decay lambda.
        classes: Number k of classes, over which the norm is taken.

    Returns:
        4 gamma m^2 C^2 / (lambda^2 (n - m)), times the root of k.
    """
    one = 4.0 * LIPSCHITZ * (removed * DERIVATIVE / weight_decay) ** 2 / retained
    return one * math.sqrt(classes)


def _head(federation: Federation, settings: TrainingSettings) -> Head:
    """Return the head of a model that can be certified.

    Raises:
        InputError: An assumption of the theorem does not hold.
    """
    if settings.solver != "one-vs-rest":
        raise InputError(
            "certified-head: certifies a linear head with L2-regularised logistic losses only; "
            f"train with solver = 'one-vs-rest', not {settings.solver!r}, or take exact-head or "
            "cubic-newton, which claim no certificate"
        )
    if not settings.perturbation:
        raise InputError(
            "certified-head: nothing hides what a removal leaves, since training had no noise; "
            "train with perturbation > 0 (training.perturbation), or take exact-head"
        )
    return head_of(federation.layout, settings)


def _recording(trained: TrainedModel, fit: HeadFit, square: FloatArray) -> CertifiedRecording:
    """Return the recording of a model that was just trained; its own gradient is spent."""
    assert fit.perturbation is not None  # the solver is perturbed
    return CertifiedRecording(
        weights=fit.solution.weights,
        perturbation=fit.perturbation,
        square=square,
        spent=fit.examples * fit.solution.gradient_norm,
        model=digest(trained.weights),
    )


def _smoothness(square: FloatArray, regulariser: float) -> float:
    """Return a bound of the curvature of L_b: that of the logistic loss is 1/4 at most."""
    return 0.25 * float(np.linalg.eigvalsh(square)[-1]) + regulariser


def _split(step: FloatArray, head: Head) -> list[FloatArray]:
    return np.split(step, head.outputs)
