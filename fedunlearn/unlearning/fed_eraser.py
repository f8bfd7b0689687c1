"""FedEraser: training is replayed from its history with calibrated updates.

Source: Liu, Ma, Yang, Wang, Liu, "FedEraser: Enabling Efficient Client-Level Data Removal from
Federated Learning Models", IWQoS 2021, algorithm 1. During training the server stores the update U
of each node in every ``every``-th round. The replay starts from the initial weights. In each round
the nodes that stay train briefly from the weights rebuilt so far, which gives U'; the round then
adds the average of ||U|| U' / ||U'||: the length of the old update in the direction of the new one.
The method needs the history of all updates ((rounds / every) (nodes + 1) d floats, and the server
sees each) and the nodes that stay. The nodes that leave need not take part.

This implementation calibrates the first round too, which the paper copies unchanged. It serves
samples and classes with the same formula, although the old lengths then still contain the forget
set.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Self

from pydantic import Field
from typing_extensions import override

from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import Recordable, TrainedModel
from fedunlearn.federation.training import OnRound, TrainingPlan
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.recording.history import PastRound, RoundHistory
from fedunlearn.settings import Settings
from fedunlearn.unlearning.method import Claim, Grid, Unlearned, UnlearningMethod
from fedunlearn.vectors import norm


class FedEraserSettings(Settings):
    """Settings of fed-eraser.

    Attributes:
        every: Interval, in rounds of training, at which updates are stored.
        calibration_epochs: Local epochs of each node in each replayed round.
        rounds: Number of stored rounds that are replayed, evenly spread. If it is left out, as many
            as the client compute of the scenario's first method allows (all where the method runs
            alone).
    """

    every: Annotated[int, Field(gt=0)] = 2
    calibration_epochs: Annotated[int, Field(gt=0)] = 1
    rounds: Annotated[int, Field(gt=0)] | None = None


class FedEraser(UnlearningMethod[FedEraserSettings]):
    """A replay of training by updates of the old lengths in new directions."""

    name: ClassVar[str] = "fed-eraser"
    settings_type: ClassVar[type[Settings]] = FedEraserSettings
    grid: ClassVar[Grid] = {"every": (1, 2, 3, 4), "calibration-epochs": (1, 2)}

    @override
    def to_record(self) -> tuple[Recordable, ...]:
        return (RoundHistory(self.settings.every),)

    @override
    def unlearn(
        self,
        trained: TrainedModel,
        federation: Federation,
        forget: ForgetSet,
        *,
        on_round: OnRound | None = None,
    ) -> Unlearned:
        (wanted,) = self.to_record()
        stored: tuple[PastRound, ...] = trained.recording(wanted, "use a method without a history")
        replayed = _spread(stored, self.settings.rounds or len(stored))
        weights = trained.start
        with federation.progress.piece(f"{self.name}: rounds", len(replayed)):
            for count, past in enumerate(replayed, start=1):
                plan = TrainingPlan(
                    trained.settings,
                    1,
                    past.number,
                    trained.settings.seed,
                    local_epochs=self.settings.calibration_epochs,
                    without=forget,
                )
                local = federation.train_apart(weights, plan)
                examples = sum(result.examples for result in local.values())
                step = weights.new_zeros(len(weights))
                for node, result in local.items():
                    turned = result.weights - weights
                    length = norm(turned)
                    if length and node in past.updates:
                        share = result.examples / examples
                        step.add_(turned, alpha=share * norm(past.updates[node]) / length)
                weights = weights + step
                if on_round is not None:
                    on_round(count, weights)
        details = {"rounds": len(replayed), "kept_rounds": len(stored)}
        return Unlearned(weights, "done", Claim.EMPIRICAL, details)

    @override
    def at_compute(self, gradient_equivalents: float, local_epochs: int) -> Self:
        del local_epochs
        if self.settings.rounds is not None:
            return self
        rounds = max(1, math.ceil(gradient_equivalents / self.settings.calibration_epochs))
        return type(self)(self.settings.model_copy(update={"rounds": rounds}))


def _spread(stored: tuple[PastRound, ...], count: int) -> list[PastRound]:
    """Select ``count`` of the stored rounds, evenly spread, starting with the first."""
    if count >= len(stored):
        return list(stored)
    return [stored[number * len(stored) // count] for number in range(count)]
