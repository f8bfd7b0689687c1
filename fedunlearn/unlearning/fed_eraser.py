"""FedEraser: training replayed from its history, each node's old update turned to a new direction.

Source: Liu, Ma, Yang, Wang, Liu, "FedEraser: Enabling Efficient Client-Level Data Removal from
Federated Learning Models", IWQoS 2021, algorithm 1. Of every ``every``-th round of training the
server kept each node's update U. From the initial weights on, those who stay train a little from
the weights as rebuilt so far, which gives U'; the round then adds the average of ||U|| U' / ||U'||:
the old length, in the new direction. It needs the history of all updates ((rounds / every) (nodes
+ 1) d floats, and the server sees each) and those who stay; whoever leaves is asked nothing.

Ours calibrates the first round too, which the paper takes as it was, and serves samples and classes
with the same formula, although the old lengths then still hold what leaves.
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
        every: Of how many rounds of training one is kept.
        calibration_epochs: Of each node in each round that is replayed.
        rounds: How many of those that were kept are replayed, evenly spread; left out, as many as
            the client compute of the scenario's first method allows (all where it runs alone).
    """

    every: Annotated[int, Field(gt=0)] = 2
    calibration_epochs: Annotated[int, Field(gt=0)] = 1
    rounds: Annotated[int, Field(gt=0)] | None = None


class FedEraser(UnlearningMethod[FedEraserSettings]):
    """Old lengths, new directions."""

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
        kept: tuple[PastRound, ...] = trained.recording(wanted, "use a method without a history")
        replayed = _spread(kept, self.settings.rounds or len(kept))
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
        details = {"rounds": len(replayed), "kept_rounds": len(kept)}
        return Unlearned(weights, "done", Claim.EMPIRICAL, details)

    @override
    def at_compute(self, gradient_equivalents: float, local_epochs: int) -> Self:
        del local_epochs
        if self.settings.rounds is not None:
            return self
        rounds = max(1, math.ceil(gradient_equivalents / self.settings.calibration_epochs))
        return type(self)(self.settings.model_copy(update={"rounds": rounds}))


def _spread(kept: tuple[PastRound, ...], count: int) -> list[PastRound]:
    """Choose so many of the rounds, from the first on, evenly."""
    if count >= len(kept):
        return list(kept)
    return [kept[number * len(kept) // count] for number in range(count)]
