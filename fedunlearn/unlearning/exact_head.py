"""Exact removal from a linear head on frozen layers, trained to the minimiser of its objective.

The model after a removal is the minimiser of the objective over the retain set: what training on it
gives, up to an error that is computed and stated.

Ridge (the squared loss): the minimiser follows from sums of second moments, X'X and X'Y. The sums
of what leaves are subtracted from those that were recorded when training ended, and the linear
system is solved anew. So removals in any sequence and order give the same model, up to rounding.

============================  ===============================  ===================================
forget set                    ``policy = "stored"``            ``policy = "on-departure"``
============================  ===============================  ===================================
nodes                         no node answers                  the nodes that leave answer
a class, on any node          none, where groups are classes   all nodes, or those it is about
records                       the nodes that hold them         the nodes that hold them
============================  ===============================  ===================================

Where the model was trained in another way, as in a user's own app, ``solver`` names the objective:
the model after the removal is then its minimiser over what stays, from the nodes that stay alone.

Logistic and one-vs-rest: steps on the retain set from the current weights, one round each with the
nodes that stay, until the error is small enough. The curvature of the end of training is known, so
that most rounds ask for gradients alone. See solvers/linear_head.py for steps and bound.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from typing_extensions import override

from fedunlearn.errors import ForgetSetError, InputError, NotRecordedError
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.head import (
    FittedHead,
    HeadFit,
    group_moments,
    head_of,
    newton_solution,
    ridge_solution,
    to_flat,
    to_rows,
    total_moments,
)
from fedunlearn.federation.trained_model import Recordable, Recorded, TrainedModel
from fedunlearn.federation.training import OnRound
from fedunlearn.parameters import digest
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.head_moments import Moments
from fedunlearn.questions.subspace_summary import FloatArray
from fedunlearn.recording.head_recording import HeadRecorder, HeadRecording
from fedunlearn.recording.recording import Group
from fedunlearn.settings import NotNegative, Settings, TrainingSettings
from fedunlearn.solvers.linear_head import HeadSolution
from fedunlearn.unlearning.method import Claim, Unlearned, UnlearningMethod


class ExactHeadSettings(Settings):
    """Settings of exact-head.

    Attributes:
        policy: ridge: ``stored`` stores the sums of each group on the server, so that removals
            need no node; ``on-departure`` stores only their total, and the leavers answer.
        groups: ridge, ``stored``: the groups with sums of their own: ``nodes``, or ``classes`` of
            each node.
        solver: The objective whose minimiser the model becomes, by rounds with the nodes that stay
            and without a recording; None for the one that training minimised.
        weight_decay: The weight decay of ``solver``; None for that of training.
        tolerance: logistic, one-vs-rest: the relative error at which Newton's method stops; also
            the largest error with which the claim is made.
    """

    policy: Literal["stored", "on-departure"] = "stored"
    groups: Literal["nodes", "classes"] = "classes"
    solver: Literal["ridge", "logistic", "one-vs-rest"] | None = None
    weight_decay: NotNegative | None = None
    tolerance: Annotated[float, Field(gt=0, le=1e-3, strict=False)] = 1e-6


class ExactHead(UnlearningMethod[ExactHeadSettings]):
    """The minimiser over the retain set, from recorded sums or by Newton steps."""

    name: ClassVar[str] = "exact-head"
    settings_type: ClassVar[type[Settings]] = ExactHeadSettings

    @override
    def to_record(self) -> tuple[Recordable, ...]:
        settings = self.settings
        if settings.solver is not None:
            return ()
        return (HeadRecorder(settings.policy == "stored", settings.groups == "classes"),)

    @override
    def unlearn(
        self,
        trained: TrainedModel,
        federation: Federation,
        forget: ForgetSet,
        *,
        on_round: OnRound | None = None,
    ) -> Unlearned:
        settings = self._training(trained)
        head = head_of(federation.layout, settings)
        if settings.perturbation:
            raise InputError(
                "exact-head: the objective is perturbed for certified removal; use certified-head, "
                "or train with perturbation = 0"
            )
        with federation.measure() as meter:
            if settings.solver != "ridge":
                solution, recorded = self._newton(trained, settings, federation, forget)
            elif self.settings.solver is None:
                solution, recorded = self._ridge(trained, federation, forget)
            else:
                objective = federation.objective(
                    forget, weight_decay=settings.weight_decay, without=forget.leavers
                )
                moments = total_moments(objective, head, trained.weights)
                solution = ridge_solution(moments, settings.weight_decay)
                recorded = dict(trained.recorded)
        weights = to_flat(head, solution.weights, trained.weights)
        error = relative_error(solution, to_rows(head, weights))
        recorded = {
            item: replace(one, value=replace(one.value, model=digest(weights)))
            if isinstance(one.value, HeadRecording)
            else one
            for item, one in recorded.items()
        }
        if on_round is not None:
            on_round(meter.rounds, weights)
        exact = error <= self.settings.tolerance
        return Unlearned(
            weights=weights,
            status=f"done: relative error at most {error:.1e} against {self._aim}"
            if exact
            else f"not exact: the relative error may be {error:.1e}, above tolerance = "
            f"{self.settings.tolerance:g}; raise weight-decay, use float64, or retrain",
            claim=Claim.EXACT if exact else Claim.EMPIRICAL,
            details={
                "rounds": meter.rounds,
                "gradient_norm": solution.gradient_norm,
                "curvature_at_least": solution.curvature,
                **(
                    {
                        "relative_error": error,
                        "relative_error_in_float64": solution.relative_error,
                    }
                    if math.isfinite(error)
                    else {}
                ),
            },
            trained=replace(trained, weights=weights, recorded=recorded),
        )

    @property
    def _aim(self) -> str:
        if self.settings.solver is None:
            return "retraining"
        return f"training the head to the minimiser ({self.settings.solver}) on what stays"

    def _training(self, trained: TrainedModel) -> TrainingSettings:
        """Return the settings of training, with the objective that this method names.

        Raises:
            InputError: The objective has no minimiser without weight decay.
        """
        own, settings = self.settings, trained.settings
        if own.solver is None:
            return settings
        decay = settings.weight_decay if own.weight_decay is None else own.weight_decay
        if own.solver != "ridge" and not decay:
            raise InputError(
                f"exact-head: weight-decay must be greater than 0 for solver = {own.solver!r}, "
                "since the minimiser may not exist otherwise; give one, as "
                f"ExactHead(solver={own.solver!r}, weight_decay=1e-3)"
            )
        return settings.model_copy(
            update={"solver": own.solver, "weight_decay": decay, "perturbation": 0.0}
        )

    def _ridge(
        self, trained: TrainedModel, federation: Federation, forget: ForgetSet
    ) -> tuple[HeadSolution, dict[Recordable, Recorded]]:
        (recordable,) = self.to_record()
        recording = trained.recording(recordable, "use retrain, which asks the nodes that stay")
        assert isinstance(recording, HeadRecording)  # the solver is ridge
        if recording.model != digest(trained.weights):
            raise NotRecordedError(
                "the sums belong to another model than the one given; give the model that training "
                "or the last removal returned, or use retrain"
            )
        leaving = recording.stored(forget)
        if leaving is None:
            leaving = self._ask(trained, federation, forget, recording)
        after = recording.without(leaving, forget)
        solution = ridge_solution(after.stays, trained.settings.weight_decay)
        spent = trained.recorded[recordable].spent
        return solution, {**_other(trained, recordable), recordable: Recorded(after, spent)}

    def _ask(
        self,
        trained: TrainedModel,
        federation: Federation,
        forget: ForgetSet,
        recording: HeadRecording,
    ) -> dict[Group, Moments]:
        """Request the sums of the forget set from the nodes that hold some of it: one round."""
        now = forget.following(recording.gone)
        objective = federation.objective(
            now,
            weight_decay=trained.settings.weight_decay,
            only=forget.named,
            without=now.leavers - forget.nodes,
        )
        found = group_moments(
            objective,
            head_of(federation.layout, trained.settings),
            trained.weights,
            Part.FORGET,
            by_label=recording.by_label and bool(recording.groups),
        )
        if not found:
            raise ForgetSetError(f"forget: no node has any example of {forget}")
        return {Group(node, label): moments for node, label, moments in sorted(found, key=_place)}

    def _newton(
        self,
        trained: TrainedModel,
        settings: TrainingSettings,
        federation: Federation,
        forget: ForgetSet,
    ) -> tuple[HeadSolution, dict[Recordable, Recorded]]:
        """Minimise over the retain set from the current weights: rounds with nodes that stay."""
        head = head_of(federation.layout, settings)
        fitted = trained.recorded.get(FittedHead())
        objective = federation.objective(
            forget, weight_decay=settings.weight_decay, without=forget.leavers
        )
        solution, blocks = newton_solution(
            objective,
            head,
            fitted.value.solution.weights if fitted else trained.weights,
            tolerance=self.settings.tolerance / 1e3,
            known=fitted.value.blocks if fitted else (),
        )
        recorded = dict(trained.recorded)
        if fitted is not None:
            value = HeadFit(solution, objective.retained, blocks=blocks)
            recorded[FittedHead()] = replace(fitted, value=value)
        return solution, recorded


def relative_error(solution: HeadSolution, rounded: FloatArray) -> float:
    """Return the bound of the relative error of weights that were rounded to a model's dtype.

    Args:
        solution: The weights in float64, with the bound of their error.
        rounded: The weights as the model has them, (k, p).
    """
    error = solution.error + float(np.linalg.norm(rounded - solution.weights))
    rest = float(np.linalg.norm(solution.weights)) - solution.error
    return error / rest if rest > 0.0 else (0.0 if error == 0.0 else float("inf"))


def _other(trained: TrainedModel, recordable: Recordable) -> dict[Recordable, Any]:
    return {item: one for item, one in trained.recorded.items() if item != recordable}


def _place(found: tuple[int, int | None, Moments]) -> tuple[int, int]:
    node, label, _ = found
    return node, -1 if label is None else label
