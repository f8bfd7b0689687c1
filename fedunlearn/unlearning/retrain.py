"""Retraining: training from the same initial weights, without the forget set.

This is the only method whose result does not depend on the forget set. It needs the initial weights
and the nodes that stay, and costs as much as training did.
"""

from __future__ import annotations

from typing import ClassVar

from typing_extensions import override

from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.federation.training import OnRound, TrainingPlan
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.settings import Settings
from fedunlearn.unlearning.method import Claim, Unlearned, UnlearningMethod


class RetrainSettings(Settings):
    """Settings of retrain: none, since it trains with the settings of training."""


class Retrain(UnlearningMethod[RetrainSettings]):
    """Training from the start on the retain set."""

    name: ClassVar[str] = "retrain"
    settings_type: ClassVar[type[Settings]] = RetrainSettings

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
        if settings.solver != "averaging":
            return self._to_the_minimiser(trained, federation, forget, on_round)
        plan = TrainingPlan(settings, settings.rounds, seed=settings.seed, without=forget)

        weights = federation.train(
            trained.start, plan, label=f"{self.name}: rounds", on_round=on_round
        )
        return Unlearned(weights, "done", Claim.EXACT_RETRAIN, {"rounds": plan.rounds})

    def _to_the_minimiser(
        self,
        trained: TrainedModel,
        federation: Federation,
        forget: ForgetSet,
        on_round: OnRound | None,
    ) -> Unlearned:
        with federation.measure() as meter:
            anew = federation.fit(
                trained.weights, trained.settings, without=forget, label=f"{self.name}: rounds"
            )
        if on_round is not None:
            on_round(meter.rounds, anew.weights)
        return Unlearned(
            anew.weights, "done", Claim.EXACT_RETRAIN, {"rounds": meter.rounds}, trained=anew
        )
