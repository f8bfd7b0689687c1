"""Fine-tuning: federated training simply goes on without what leaves.

The oldest baseline (e.g. Golatkar, Achille, Soatto 2020, "Fine-tuning"): it forgets only as far as
later training overwrites.
"""

from __future__ import annotations

from typing import ClassVar

from typing_extensions import override

from fedunlearn.federation.federation import Federation, TrainedModel
from fedunlearn.federation.forget import ForgetSet
from fedunlearn.scenario.settings import Settings
from fedunlearn.unlearning.going_on import GoingOnSettings, sized, train_on
from fedunlearn.unlearning.method import Unlearned, UnlearningMethod, Watch


class FineTuneSettings(GoingOnSettings):
    """Settings of fine-tune."""


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
        return train_on(
            self.name,
            self.settings,
            trained,
            federation,
            forget,
            start=trained.weights,
            first_round=trained.settings.rounds + 1,
            watch=watch,
        )

    @override
    def at_compute(self, gradient_equivalents: float, local_epochs: int) -> FineTune:
        if self.settings.rounds is not None:
            return self
        return FineTune(sized(self.settings, gradient_equivalents, local_epochs))
