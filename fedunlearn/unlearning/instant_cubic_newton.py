"""Removal without a round: the cubic step from summaries that were recorded when training ended.

The step is that of cubic-newton (Bui, Lu, Sim, Ng, Low, arXiv 2406.14507, section 4; Nesterov and
Polyak 2006), in a subspace that was recorded once for every possible removal: see
recording/recorder.py for the subspace, recording/reduced.py for the model and for the rule that
gives its weight. The construction is this project's own. A later request is combined with all
earlier ones: the step is always that of all examples removed so far, from the weights before the
first removal.

The nodes that must answer, by forget set and policy:

============================  ===============================  ===================================
forget set                    ``policy = "stored"``            ``policy = "on-departure"``
============================  ===============================  ===================================
nodes                         none                             the nodes that leave
a class, on any node          none, where groups are           all nodes, or those it is about
                              classes; else as on the right
records                       the nodes that hold them         the nodes that hold them
============================  ===============================  ===================================

A node that must answer does so once, with a summary of q (q + 3) / 2 + 3 numbers. ``check`` adds
one round with all nodes that stay: the damping is increased until the influence objective changes
as its model predicted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from typing_extensions import override

from fedunlearn.errors import ForgetSetError, NotRecordedError
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import Recordable, Recorded, TrainedModel
from fedunlearn.federation.training import OnRound
from fedunlearn.parameters import digest
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.question import Sample
from fedunlearn.questions.subspace_summary import Summary
from fedunlearn.recording.recorder import SubspaceRecorder
from fedunlearn.recording.recording import Group, Recording
from fedunlearn.recording.recording_settings import RecordingSettings
from fedunlearn.recording.reduced import ReducedProblem, natural_damping
from fedunlearn.settings import NotNegative, Settings
from fedunlearn.solvers.cubic import ReducedStep
from fedunlearn.solvers.solution import Status
from fedunlearn.solvers.weight import Candidate
from fedunlearn.unlearning.influence import rounding_of_losses
from fedunlearn.unlearning.method import Claim, Grid, Unlearned, UnlearningMethod
from fedunlearn.unlearning.validity import Validity

# Multiples of the damping that are tried where the step is checked.
MORE_DAMPING = (4.0, 16.0, 64.0)


class InstantCubicNewtonSettings(RecordingSettings):
    """Settings of instant-cubic-newton.

    Attributes:
        weight: The cubic weight M, or ``auto`` for the natural damping (recording/reduced.py).
        check: Whether to request, once, from the nodes that stay whether the objective changed as
            predicted.
    """

    weight: NotNegative | Literal["auto"] = "auto"
    check: bool = False

    def recording(self) -> RecordingSettings:
        """Return the part of the settings that a recording depends on."""
        return RecordingSettings(**{k: getattr(self, k) for k in RecordingSettings.model_fields})


class InstantCubicNewton(UnlearningMethod[InstantCubicNewtonSettings]):
    """One cubic step in a recorded subspace, without a round."""

    name: ClassVar[str] = "instant-cubic-newton"
    settings_type: ClassVar[type[Settings]] = InstantCubicNewtonSettings
    grid: ClassVar[Grid] = {"linearise-at": (0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)}

    @override
    def to_record(self) -> tuple[Recordable, ...]:
        return (SubspaceRecorder(self.settings.recording()),)

    @override
    def unlearn(
        self,
        trained: TrainedModel,
        federation: Federation,
        forget: ForgetSet,
        *,
        on_round: OnRound | None = None,
    ) -> Unlearned:
        (recordable,) = self.to_record()
        recording: Recording = trained.recording(recordable, "use cubic-newton, which asks nodes")
        if recording.model != digest(trained.weights):
            raise NotRecordedError(
                "the summaries belong to another model than the one given; record them anew after "
                "training it further, or use cubic-newton, which asks nodes"
            )
        leaving = recording.stored(forget)
        rounds = 0
        if leaving is None:
            leaving = self._ask(trained, federation, forget, recording)
            rounds += 1
        now = sum(leaving.values(), Summary.nothing(recording.basis.size))
        after = recording.without(leaving, forget)
        problem = after.problem()
        step = self._step(problem, after)
        if step.status is Status.UNBOUNDED:
            return Unlearned(
                weights=trained.weights.clone(),
                status=step.status.value,
                claim=Claim.EMPIRICAL,
                details=_details(step, rounds, ()),
                trained=trained,
            )
        tried: tuple[Candidate, ...] = ()
        if self.settings.check:
            tried = self._check(trained, federation, recording, after, step)
            step = next((c.step for c in tried if c.acceptable), tried[-1].step)
            rounds += 1
        weights = recording.basis.moved(trained.weights, step.coordinates - recording.coordinates)
        after = replace(after, coordinates=step.coordinates, model=digest(weights))
        validity = Validity.of(now, after, step, tried)
        if on_round is not None:
            on_round(rounds, weights)
        recorded = {
            **trained.recorded,
            recordable: Recorded(after, trained.recorded[recordable].spent),
        }
        return Unlearned(
            weights=weights,
            status=validity.verdict,
            claim=Claim.EMPIRICAL,
            details=_details(step, rounds, tried) | {"validity": validity.as_dict()},
            trained=replace(trained, weights=weights, recorded=recorded),
        )

    def _step(self, problem: ReducedProblem, after: Recording) -> ReducedStep:
        if self.settings.weight == "auto":
            return problem.damped(natural_damping(after.time))
        return problem.weighted(self.settings.weight)

    def _ask(
        self,
        trained: TrainedModel,
        federation: Federation,
        forget: ForgetSet,
        recording: Recording,
    ) -> dict[Group, Summary]:
        """Request summaries of the forget set from the nodes that hold some of it: one round."""
        now = forget.following(recording.gone)
        objective = federation.objective(
            now,
            weight_decay=recording.weight_decay,
            only=forget.named,
            without=now.leavers - forget.nodes,
            step_batch=recording.batch_size,
        )
        found = {
            Group(node, label): summary
            for node, labels, summaries in objective.summaries(
                recording.place(trained.weights, trained.start),
                recording.basis.whole(),
                self.settings.kind,
                part=Part.FORGET,
                by_label=recording.by_label and bool(recording.groups),
                sample=Sample.of(self.settings.product_share, seed=0),
            )
            for label, summary in zip(labels or (None,), summaries, strict=True)
        }
        if not found:
            raise ForgetSetError(f"forget: no node has any example of {forget}")
        return found

    def _check(
        self,
        trained: TrainedModel,
        federation: Federation,
        recording: Recording,
        after: Recording,
        step: ReducedStep,
    ) -> tuple[Candidate, ...]:
        """Evaluate the retain objective at the step and at more damped ones: one round."""
        problem = after.problem()
        least = max(step.damping, natural_damping(after.time))
        steps = [step, *(problem.damped(least * more) for more in MORE_DAMPING)]
        origin = recording.place(trained.weights, trained.start)
        last = after.gone[-1].following(recording.gone)
        objective = federation.objective(
            last,
            weight_decay=after.weight_decay,
            without=last.leavers,
            step_batch=recording.batch_size,
        )
        nowhere = torch.zeros_like(origin)
        moves = torch.stack([after.basis.moved(nowhere, s.coordinates) for s in steps])
        values = objective.losses(origin, moves)
        linear = after.linear()
        changes = values[1:] - values[0]
        resolution = rounding_of_losses(values, origin.dtype)
        return tuple(
            Candidate(s, float(change) - float(linear @ s.coordinates), resolution)
            for s, change in zip(steps, changes, strict=True)
        )


def _details(step: ReducedStep, rounds: int, tried: tuple[Candidate, ...]) -> dict[str, Any]:
    """Return the details of the step."""
    details = step.as_dict()
    for unknown in ("residual", "products"):  # not known: they lie outside of the subspace
        del details[unknown]
    return details | {
        "rounds": rounds,
        "step_norm": float(np.linalg.norm(step.coordinates)),
        "candidates": [candidate.as_dict() for candidate in tried],
    }
