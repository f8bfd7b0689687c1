"""``auto``: the cheapest plan that is expected to come close enough to a retrained model.

Stages, the cheapest first; each is taken where the one before it is not expected to reach the
wanted closeness:

1. **Recorded step**: instant-cubic-newton, where summaries of this model were recorded.
2. **Step**: a cubic step of ``PRODUCTS`` products of a sample of the examples, with one round that
   checks whether the objective changes as predicted. Its basis also shows the leverage of the
   forget set.
3. **Checkpoint**: the move of that step from a checkpoint of training, where the forget set was
   fitted less, and from there the rest of training on the retain set in fewer rounds
   (remaining_training.py). The step has ``correction`` times the natural damping, since the rounds
   remove the rest. Without checkpoints: rewind.
4. **Retraining**, where the budget allows for as many rounds as training took.

What is expected follows from the leverage of the forget set along the step (expected_distance.py),
which nodes measure without an oracle. The plan, the evidence and the expected distance are in the
details and in the status; where no stage is expected to come close enough, the status says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedunlearn.federation.accounting import Meter
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import Recordable, Recorded, TrainedModel
from fedunlearn.federation.training import OnRound, TrainingPlan
from fedunlearn.parameters import digest
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.question import Sample
from fedunlearn.recording.checkpoints import Checkpoints, TrainingCheckpoints
from fedunlearn.recording.recorder import SubspaceRecorder
from fedunlearn.recording.recording import Recording
from fedunlearn.recording.reduced import natural_damping
from fedunlearn.risk.products import Curvature
from fedunlearn.settings import Positive, Settings
from fedunlearn.solvers.cubic import ReducedStep, lift, solve_reduced
from fedunlearn.solvers.lanczos import KrylovBasis, lanczos
from fedunlearn.solvers.weight import Candidate, weight_of_damping
from fedunlearn.unlearning.expected_distance import after_rounds, after_step
from fedunlearn.unlearning.influence import Influence, open_influence
from fedunlearn.unlearning.instant_cubic_newton import InstantCubicNewton
from fedunlearn.unlearning.method import Claim, Grid, Unlearned, UnlearningMethod
from fedunlearn.unlearning.remaining_training import earliest_start, remaining_schedule
from fedunlearn.unlearning.retrain import Retrain
from fedunlearn.unlearning.rewind import Rewind
from fedunlearn.unlearning.subspace import RESIDUAL
from fedunlearn.unlearning.validity import leverage_along

PRODUCTS = 8
# The share of the examples from which the products of a step are computed; and how many at least.
PRODUCT_SHARE, LEAST_SAMPLED = 0.25, 256
# The default budget, as a share of the rounds of training.
BUDGET_SHARE = 0.4


class AutoSettings(Settings):
    """Settings of auto.

    Attributes:
        closeness: The wanted distance of predictions on the forget set from those of a retrained
            model, in floors: multiples of the distance between independently retrained models.
        rounds: The largest number of rounds of training on the retain set. If it is left out, two
            fifths of those of training; as many as training took allow for retraining.
        correction: The damping of the step from a checkpoint, as a multiple of the natural one.
        record: Whether summaries are recorded when training ends, with the defaults of
            instant-cubic-newton, so that a removal need not take a round.
        checkpoints: The number of checkpoints that the server stores while training runs.
    """

    closeness: Positive = 2.0
    rounds: Annotated[int, Field(gt=0)] | None = None
    correction: Positive = 2.0
    record: bool = False
    checkpoints: Annotated[int, Field(ge=0)] = 10


@dataclass(frozen=True)
class Stage:
    """A stage of the plan, as it went.

    Attributes:
        name: The stage.
        expected: The expected distance from a retrained model, in floors.
        taken: Whether its model is the result.
        evidence: What the expectation follows from.
    """

    name: str
    expected: float
    taken: bool
    evidence: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return the values in a form that JSON can hold."""
        return {
            "stage": self.name,
            # JSON has no infinity: nothing is expected of a step that failed its check.
            **({"expected_floors": self.expected} if math.isfinite(self.expected) else {}),
            "taken": self.taken,
            **self.evidence,
        }


class Auto(UnlearningMethod[AutoSettings]):
    """The cheapest plan that is expected to reach a wanted closeness."""

    name: ClassVar[str] = "auto"
    settings_type: ClassVar[type[Settings]] = AutoSettings
    grid: ClassVar[Grid] = {"correction": (0.5, 1.0, 2.0, 4.0), "record": (False, True)}

    @override
    def to_record(self) -> tuple[Recordable, ...]:
        summaries = InstantCubicNewton().to_record() if self.settings.record else ()
        most = self.settings.checkpoints
        return (*summaries, TrainingCheckpoints(most)) if most else summaries

    @override
    def unlearn(
        self,
        trained: TrainedModel,
        federation: Federation,
        forget: ForgetSet,
        *,
        on_round: OnRound | None = None,
    ) -> Unlearned:
        removal = _Removal(self.settings, trained, federation, forget, on_round)
        for attempt in (removal.recorded_step, removal.step):
            if (found := attempt()) is not None:
                return found
        return removal.rounds()

    @override
    def at_compute(self, gradient_equivalents: float, local_epochs: int) -> Self:
        if self.settings.rounds is not None:
            return self
        rounds = max(1, math.floor(gradient_equivalents / local_epochs))
        return type(self)(self.settings.model_copy(update={"rounds": rounds}))


class _Removal:
    """One removal, stage by stage."""

    def __init__(
        self,
        settings: AutoSettings,
        trained: TrainedModel,
        federation: Federation,
        forget: ForgetSet,
        on_round: OnRound | None,
    ) -> None:
        self._settings = settings
        self._trained = trained
        self._federation = federation
        self._forget = forget
        self._on_round = on_round
        self._stages: list[Stage] = []
        self._rounds = 0
        self._share = self._leverage = 0.0
        self._move: Tensor | None = None
        self._item, self._earlier = TrainingCheckpoints(settings.checkpoints), Checkpoints({})
        for item, recorded in trained.recorded.items():
            if isinstance(item, TrainingCheckpoints):
                self._item, self._earlier = item, recorded.value
        self._checked_step = True
        self._remark: str | None = None

    def recorded_step(self) -> Unlearned | None:
        """Take the step from recorded summaries, where it is expected to suffice."""
        for item, recorded in self._trained.recorded.items():
            if not isinstance(item, SubspaceRecorder):
                continue
            recording: Recording = recorded.value
            if recording.model != digest(self._trained.weights):
                continue
            method = InstantCubicNewton(**dict(item.settings))
            found = method.unlearn(self._trained, self._federation, self._forget)
            self._rounds += found.details["rounds"]
            validity = found.details.get("validity")
            if validity is None:
                continue
            self._share, self._leverage = validity["share"], validity["along_step"]
            evidence = self._evidence | {"step": found.status}
            enough = self._note("recorded step", after_step(self._leverage), evidence)
            if enough or not self._can_train:
                if self._on_round is not None:
                    self._on_round(self._rounds, found.weights)
                return self._result(found, enough)
            assert found.trained is not None
            after: Recording = found.trained.recorded[item].value
            step = after.problem().damped(self._settings.correction * natural_damping(after.time))
            nowhere = torch.zeros_like(self._trained.weights)
            self._move = after.basis.moved(nowhere, step.coordinates)  # of all that has left
        return None

    def step(self) -> Unlearned | None:
        """Take a step with rounds, where its leverage is small and its check does not fail."""
        if self._stages:  # a recorded step was not close enough, and this one is no closer
            return None
        influence = open_influence(
            self._trained,
            self._federation,
            self._forget,
            source="departing",
            completion="auto",
            linearise_at=1.0,
            node_weights="steps",
        )
        objective = influence.objective
        retained, forgotten = objective.retained, objective.forgotten
        self._remark = influence.undone.remark if influence.undone is not None else None
        self._share = forgotten / (retained + forgotten)
        slope = influence.slope(None)
        if not slope.any():
            self._rounds += objective.rounds
            unchanged = Unlearned(self._trained.weights.clone(), "", Claim.EMPIRICAL)
            return self._result(unchanged, self._note("step", 0.0, self._evidence))
        share = min(1.0, max(PRODUCT_SHARE, LEAST_SAMPLED / retained))
        sample = Sample.of(share, seed=0)
        curvature = objective.curvature(self._trained.weights, Curvature.GGN, sample)
        *_, basis = lanczos(curvature, slope, PRODUCTS)
        sums = objective.forgotten_products(
            self._trained.weights, basis.vectors.T, Curvature.GGN, sample
        )
        leaves = (sums @ basis.vectors.double()).numpy() / objective.mass(Part.RETAIN)
        damping = influence.natural_damping
        found = self._checked(influence, basis, damping)
        self._checked_step = found.acceptable
        gain = {"gain": found.gain} if math.isfinite(found.gain) else {}
        self._leverage = leverage_along(
            found.step.coordinates, leaves, basis.projection.numpy(), damping
        )
        self._rounds += objective.rounds
        (self._move,) = lift(basis, [_damped(basis, self._settings.correction * damping)])
        enough = self._note(
            "step",
            after_step(self._leverage) if found.acceptable else math.inf,
            self._evidence | gain | {"products": basis.products},
        )
        if not enough and self._can_train:
            return None
        (move,) = lift(basis, [found.step])
        weights = self._trained.weights + move
        if self._on_round is not None:
            self._on_round(self._rounds, weights)
        return self._result(Unlearned(weights, "", Claim.EMPIRICAL), enough)

    def _checked(self, influence: Influence, basis: KrylovBasis, damping: float) -> Candidate:
        """Return the step of a damping, with the change of the objective there: one round."""
        step = _damped(basis, damping)
        (change,) = influence.changes(None, lift(basis, [step]))
        return Candidate(step, float(change), influence.resolution)

    def rounds(self) -> Unlearned:
        """Train on the retain set, from a checkpoint, on the way back, or from the start."""
        start, rounds = self._plan()
        if rounds >= self._trained.settings.rounds:
            found = Retrain().unlearn(
                self._trained, self._federation, self._forget, on_round=self._reported
            )
            self._rounds += found.details["rounds"]
            self._stages.append(Stage("retraining", 0.0, True, {"rounds": rounds}))
            return self._result(found, enough=True)
        evidence = self._evidence | {"rounds": rounds}
        if start is None:
            found = Rewind(rounds=rounds).unlearn(
                self._trained, self._federation, self._forget, on_round=self._reported
            )
            self._rounds += rounds
            return self._result(found, self._note("rewind", self._after(None), evidence))
        assert self._move is not None  # some step was solved before
        weights = self._earlier.weights[start] + self._move
        schedule = remaining_schedule(self._trained.settings, start, rounds)
        plan = TrainingPlan(
            self._trained.settings,
            len(schedule.rates),
            schedule.first_round,
            self._trained.settings.seed,
            schedule=schedule,
            without=self._forget,
        )
        weights = self._federation.train(
            weights, plan, label="auto: rounds", on_round=self._counted(schedule.first_round)
        )
        self._rounds += plan.rounds
        evidence |= {"checkpoint": start}
        enough = self._note("checkpoint", self._after(start), evidence)
        return self._result(Unlearned(weights, "done", Claim.EMPIRICAL), enough)

    def _plan(self) -> tuple[int | None, int]:
        """Return the checkpoint and the rounds from there: the fewest that are expected to do.

        Returns:
            The number of rounds before the checkpoint, or None where there is none; and the rounds
            to train, as many as training took where it is to start anew.
        """
        settings = self._trained.settings
        known = self._trained.initial is not None
        budget = self._settings.rounds or math.ceil(BUDGET_SHARE * settings.rounds)
        start: int | None = None
        for rounds in range(1, min(budget, settings.rounds) + 1):
            start = earliest_start(settings, self._earlier.weights, rounds)
            if start is not None and self._after(start) <= self._settings.closeness:
                return start, rounds
        if budget >= settings.rounds and known:
            return None, settings.rounds
        return start, budget

    def _after(self, start: int | None) -> float:
        """Return the expected distance after the rest of training from a checkpoint."""
        anew = None if start is None else 1.0 - start / self._trained.settings.rounds
        return after_rounds(self._leverage, anew, checked=self._checked_step)

    @property
    def _can_train(self) -> bool:
        return self._trained.initial is not None or bool(self._earlier.weights)

    @property
    def _evidence(self) -> dict[str, Any]:
        return {"share": self._share, "leverage": self._leverage}

    def _note(self, stage: str, expected: float, evidence: Mapping[str, Any]) -> bool:
        """Add a stage to the plan, and return whether it is close enough."""
        # The forget set is all that has left: its mean distance is at most the largest of a part.
        expected = max(expected, self._earlier.expected)
        enough = expected <= self._settings.closeness
        self._stages.append(Stage(stage, expected, enough, evidence))
        return enough

    def _result(self, found: Unlearned, enough: bool) -> Unlearned:
        last = replace(self._stages[-1], taken=True)
        stages = [*self._stages[:-1], last]
        wanted = self._settings.closeness
        status = f"{last.name}: expected within {last.expected:.2g} floors of a retrained model"
        if not math.isfinite(last.expected):
            status = f"{last.name}: the objective did not change as predicted"
        if enough:
            status += f" ({wanted:g} wanted)"
        else:
            status += f", and {wanted:g} are wanted: allow more rounds, or retrain"
        if self._remark is not None and last.name == "step":
            status += f"; {self._remark}"
        return replace(
            found,
            status=status,
            trained=self._next(found, last),
            details={
                **found.details,
                "rounds": self._rounds,
                "wanted_floors": wanted,
                **({"expected_floors": last.expected} if math.isfinite(last.expected) else {}),
                "close_enough": enough,
                "plan": [stage.as_dict() for stage in stages],
            },
        )

    def _next(self, found: Unlearned, last: Stage) -> TrainedModel:
        """Return the model as the next removal starts from it.

        Checkpoints hold what has left: those up to the one that was used are moved by the step, all
        others are dropped.
        """
        expected = last.expected if math.isfinite(last.expected) else self._earlier.expected
        if found.trained is not None:  # recorded steps are always of everything that has left
            checkpoints = replace(self._earlier, expected=expected)
            after = found.trained
        else:
            until = last.evidence.get("checkpoint", self._trained.settings.rounds)
            moved = {
                number: weights + self._move
                for number, weights in self._earlier.weights.items()
                if self._move is not None and number <= until
            }
            checkpoints = Checkpoints(moved, expected)
            after = replace(self._trained, weights=found.weights, recorded={})
        recorded = dict(after.recorded) | {self._item: Recorded(checkpoints, Meter().stopped())}
        return replace(after, recorded=recorded)

    def _reported(self, number: int, weights: Tensor) -> None:
        if self._on_round is not None:
            self._on_round(self._rounds + number, weights)

    def _counted(self, first: int) -> OnRound:
        return lambda number, weights: self._reported(number - first + 1, weights)


def _damped(basis: KrylovBasis, damping: float) -> ReducedStep:
    """Return the step with a damping, in units of curvature; with none for 0."""
    largest = float(torch.linalg.matrix_norm(basis.projection, 2)) or 1.0
    weight = weight_of_damping(basis, damping / largest) if damping > 0.0 else 0.0
    return solve_reduced(basis, weight, rtol=RESIDUAL)
