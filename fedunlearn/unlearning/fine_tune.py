"""Fine-tuning: federated training simply goes on without what leaves.

The oldest baseline (e.g. Golatkar, Achille, Soatto 2020, "Fine-tuning"): it forgets only as far as
later training overwrites.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedunlearn.federation.federation import Federation, TrainedModel, TrainingPlan
from fedunlearn.federation.forget import ForgetSet
from fedunlearn.scenario.settings import Positive, Settings
from fedunlearn.unlearning.method import Claim, Unlearned, UnlearningMethod, Watch


class FineTuneSettings(Settings):
    """Settings of fine-tune.

    Attributes:
        rounds: How many; left out, as many as the client compute of the scenario's first method
            allows, rounded up (10 where it runs alone).
        learning_rate: A constant one; left out, training's schedule goes on.
    """

    rounds: Annotated[int, Field(gt=0)] | None = None
    learning_rate: Positive | None = None


class FineTune(UnlearningMethod[FineTuneSettings]):
    """Ordinary training on the retain set."""

    name: ClassVar[str] = "fine-tune"
    settings_type: ClassVar[type[Settings]] = FineTuneSettings

    @override
    def unlearn(
        self,
        trained: TrainedModel,
        federation: Federation,
        forget: ForgetSet,
        *,
        watch: Watch | None = None,
    ) -> Unlearned:
        first = trained.settings.rounds + 1
        plan = TrainingPlan(
            settings=trained.settings,
            rounds=self.settings.rounds or 10,
            first_round=first,
            seed=trained.settings.seed,
            learning_rate=self.settings.learning_rate,
            without=forget,
        )

        def on_round(number: int, weights: Tensor) -> None:
            if watch is not None:
                watch(number - first + 1, weights)

        weights = federation.train(
            trained.weights, plan, label=f"{self.name}: rounds", on_round=on_round
        )
        return Unlearned(weights, "done", Claim.EMPIRICAL, {"rounds": plan.rounds})

    @override
    def at_compute(self, gradient_equivalents: float, local_epochs: int) -> FineTune:
        if self.settings.rounds is not None:
            return self
        rounds = max(1, math.ceil(gradient_equivalents / local_epochs))
        return FineTune(self.settings.model_copy(update={"rounds": rounds}))
