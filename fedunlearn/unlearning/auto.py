"""``auto``: the cheapest plan that is expected to come close enough to a retrained model.

Stages, the cheapest first; each is taken where the one before it is not expected to reach the
wanted closeness, or failed its check:

1. **Recorded step**: instant-cubic-newton, where summaries of this model were recorded.
2. **Step**: cubic-newton. Its leverage is measured first, by one gradient and one product: where
   it is too large, the step is not tried.
3. **Checkpoint**: a step at a checkpoint of training, where the forget set was fitted less, then
   the rest of training on the retain set in fewer rounds (remaining_training.py). The step there
   has ``CORRECTION`` times the natural damping, since the rounds that follow remove the rest.
   Without checkpoints: rewind.
4. **Retraining**, where the budget allows for as many rounds as training took.

What is expected follows from the share and the leverage of the forget set (expected_distance.py),
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

from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import Recordable, TrainedModel
from fedunlearn.federation.training import OnRound, TrainingPlan
from fedunlearn.model_state import ModelState
from fedunlearn.networks import running_statistics
from fedunlearn.parameters import digest
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.recording.checkpoints import Checkpoints, TrainingCheckpoints
from fedunlearn.recording.recorder import SubspaceRecorder
from fedunlearn.recording.recording import Recording
from fedunlearn.risk.products import Curvature
from fedunlearn.settings import Positive, Settings
from fedunlearn.solvers.cubic import solve_reduced
from fedunlearn.solvers.lanczos import KrylovBasis
from fedunlearn.solvers.weight import weight_of_damping
from fedunlearn.unlearning.cubic_newton import CubicNewton
from fedunlearn.unlearning.expected_distance import after_rounds, after_step
from fedunlearn.unlearning.influence import Influence
from fedunlearn.unlearning.instant_cubic_newton import InstantCubicNewton
from fedunlearn.unlearning.method import Claim, Grid, Unlearned, UnlearningMethod
from fedunlearn.unlearning.remaining_training import earliest_start, remaining_schedule
from fedunlearn.unlearning.retrain import Retrain
from fedunlearn.unlearning.rewind import Rewind
from fedunlearn.unlearning.subspace import RESIDUAL, Chosen
from fedunlearn.vectors import dot, norm

# The damping of the step at a checkpoint, as a multiple of the natural one.
CORRECTION = 4.0
CORRECTION_PRODUCTS = 5
# The share of the examples from which the products of that step are computed.
CORRECTION_SHARE = 0.25
# The default budget, as a share of the rounds of training.
BUDGET_SHARE = 0.2


class AutoSettings(Settings):
    """Settings of auto.

    Attributes:
        closeness: The wanted distance of predictions on the forget set from those of a retrained
            model, in floors: multiples of the distance between independently retrained models.
        rounds: The largest number of rounds of training on the retain set. If it is left out, a
            fifth of those of training.
        checkpoints: The number of checkpoints that the server stores while training runs.
    """

    closeness: Positive = 2.0
    rounds: Annotated[int, Field(gt=0)] | None = None
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
            "expected_floors": round(self.expected, 3),
            "taken": self.taken,
            **self.evidence,
        }


class Auto(UnlearningMethod[AutoSettings]):
    """The cheapest plan that is expected to reach a wanted closeness."""

    name: ClassVar[str] = "auto"
    settings_type: ClassVar[type[Settings]] = AutoSettings
    grid: ClassVar[Grid] = {"closeness": (1.0, 2.0, 4.0)}

    @override
    def to_record(self) -> tuple[Recordable, ...]:
        most = self.settings.checkpoints
        return (TrainingCheckpoints(most),) if most else ()

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
        for attempt in (removal.recorded_step, removal.step, removal.rounds):
            found = attempt()
            if found is not None:
                return found
        raise AssertionError  # rounds always ends in a model

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
            self._share, self._leverage = validity["share"], validity["leverage"]
            expected = after_step(self._share, self._leverage)
            if taken := self._note("recorded step", expected, self._evidence(), found.status):
                return self._result(found, taken)
        return None

    def step(self) -> Unlearned | None:
        """Take a step with rounds, where its leverage is small enough."""
        if self._stages:  # the recorded step was not close enough, and this one is no closer
            return None
        self._measure()
        expected = after_step(self._share, self._leverage)
        if expected > self._settings.closeness and self._can_train:
            self._stages.append(Stage("step", expected, False, self._evidence()))
            return None
        at = 1.0 if self._trained.initial is None else CubicNewton().settings.linearise_at
        found = CubicNewton(linearise_at=at).unlearn(
            self._trained, self._federation, self._forget, on_round=self._reported
        )
        self._rounds += found.details["rounds"]
        taken = self._note("step", expected, self._evidence(), found.status)
        if taken or not self._can_train:
            return self._result(found, taken)
        return None

    def rounds(self) -> Unlearned:
        """Train on the retain set, from a checkpoint, on the way back, or from the start."""
        budget = self._settings.rounds or math.ceil(BUDGET_SHARE * self._trained.settings.rounds)
        if budget >= self._trained.settings.rounds and self._trained.initial is not None:
            found = Retrain().unlearn(
                self._trained, self._federation, self._forget, on_round=self._reported
            )
            self._rounds += found.details["rounds"]
            self._stages.append(Stage("retraining", 0.0, True, {}))
            return self._result(found, True)
        start = earliest_start(self._trained.settings, self._checkpoints, budget)
        if start is None:
            return self._rewound(budget)
        weights = self._corrected(start)
        schedule = remaining_schedule(self._trained.settings, start, budget)
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
        evidence = self._evidence() | {"checkpoint": start, "rounds": plan.rounds}
        done = start / self._trained.settings.rounds
        expected = after_rounds(self._share, self._leverage, done)
        taken = self._note("checkpoint", expected, evidence, "done")
        return self._result(Unlearned(weights, "done", Claim.EMPIRICAL), taken)

    def _rewound(self, budget: int) -> Unlearned:
        """Train from half of the way back to the initial weights."""
        found = Rewind(rounds=budget).unlearn(
            self._trained, self._federation, self._forget, on_round=self._reported
        )
        self._rounds += found.details["rounds"]
        expected = after_rounds(self._share, self._leverage, None)
        evidence = self._evidence() | {"rounds": found.details["rounds"]}
        return self._result(found, self._note("rewind", expected, evidence, "done"))

    @property
    def _checkpoints(self) -> Checkpoints:
        for item, recorded in self._trained.recorded.items():
            if isinstance(item, TrainingCheckpoints):
                checkpoints: Checkpoints = recorded.value
                return checkpoints
        return {}

    @property
    def _can_train(self) -> bool:
        return self._trained.initial is not None or bool(self._checkpoints)

    def _measure(self) -> None:
        """Measure share and leverage of the forget set: one round for gradients, one for products.

        The leverage is that along the gradient of the forget set g: <g, H_f g> over <g, (H_f + H_r
        + q lambda) g>, all of them weighted sums.
        """
        trained = self._trained
        objective = self._federation.objective(
            self._forget,
            weight_decay=trained.settings.weight_decay,
            without=self._forget.leavers - self._forget.nodes,
            step_batch=trained.settings.batch_size,
        )
        gradients = objective.gradients(trained.weights)
        along = gradients.departing
        length = norm(along)
        self._rounds += 1
        self._share = gradients.forgotten / (gradients.forgotten + gradients.retained)
        if length == 0.0:
            self._leverage = 0.0
            return
        direction = (along / length)[None]
        curved = objective.curvatures(trained.weights, direction, Curvature.GGN)
        self._rounds += 1
        leaves, stays = (dot(curved[part][0], direction[0]) for part in (Part.FORGET, Part.RETAIN))
        floor = gradients.mass * trained.settings.weight_decay
        self._leverage = max(0.0, leaves) / max(leaves + stays + floor, 1e-300)

    def _corrected(self, start: int) -> Tensor:
        """Return the weights of a checkpoint after a step there."""
        settings = self._trained.settings.model_copy(update={"rounds": start})
        weights = self._checkpoints[start]
        at = replace(self._trained, weights=weights, settings=settings, recorded={})
        federation = self._federation
        if running_statistics(federation.state):
            objective = federation.objective(
                self._forget, weight_decay=0.0, without=self._forget.leavers
            )
            state = objective.statistics(weights, federation.batch_size, seed=0)
            federation = replace(federation, state=ModelState(state))
            self._rounds += 1
        found = _Correction(
            linearise_at=1.0, products=CORRECTION_PRODUCTS, product_share=CORRECTION_SHARE
        ).unlearn(at, federation, self._forget)
        self._rounds += found.details["rounds"]
        return found.weights

    def _evidence(self) -> dict[str, Any]:
        return {"share": self._share, "leverage": self._leverage}

    def _note(self, stage: str, expected: float, evidence: Mapping[str, Any], status: str) -> bool:
        """Add a stage to the plan, and return whether it is close enough."""
        enough = expected <= self._settings.closeness
        self._stages.append(Stage(stage, expected, enough, {**evidence, "status": status}))
        return enough

    def _result(self, found: Unlearned, enough: bool) -> Unlearned:
        last = replace(self._stages[-1], taken=True)
        stages = [*self._stages[:-1], last]
        wanted = self._settings.closeness
        status = f"{last.name}: expected within {last.expected:.2g} floors of a retrained model"
        if enough:
            status += f" ({wanted:g} wanted)"
        else:
            status += f", and {wanted:g} are wanted: allow more rounds, or retrain"
        return replace(
            found,
            status=status,
            details={
                **found.details,
                "rounds": self._rounds,
                "wanted_floors": wanted,
                "expected_floors": last.expected,
                "close_enough": enough,
                "plan": [stage.as_dict() for stage in stages],
            },
        )

    def _reported(self, number: int, weights: Tensor) -> None:
        if self._on_round is not None:
            self._on_round(self._rounds + number, weights)

    def _counted(self, first: int) -> OnRound:
        return lambda number, weights: self._reported(number - first + 1, weights)


class _Correction(CubicNewton):
    """A step whose damping is a multiple of the natural one, without a round for its choice."""

    @override
    def choose(self, basis: KrylovBasis, influence: Influence, moved: Tensor | None) -> Chosen:
        largest = float(torch.linalg.matrix_norm(basis.projection, 2)) or 1.0
        relative = CORRECTION * influence.natural_damping / largest
        weight = weight_of_damping(basis, relative) if relative > 0.0 else 0.0
        return Chosen(solve_reduced(basis, weight, rtol=RESIDUAL))
