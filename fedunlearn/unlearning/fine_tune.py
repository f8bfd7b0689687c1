"""Fine-tuning: federated training simply goes on without what leaves.

The oldest baseline (e.g. Golatkar, Achille, Soatto 2020, "Fine-tuning"): it forgets only as far as
later training overwrites.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from fedunlearn.federation.federation import TrainedModel
from fedunlearn.scenario.settings import Settings
from fedunlearn.unlearning.going_on import GoingOn, GoingOnSettings


class FineTuneSettings(GoingOnSettings):
    """Settings of fine-tune."""


class FineTune(GoingOn[FineTuneSettings]):
    """Training on the retain set, from where training ended."""

    name: ClassVar[str] = "fine-tune"
    settings_type: ClassVar[type[Settings]] = FineTuneSettings

    @override
    def begin(self, trained: TrainedModel) -> tuple[Tensor, int]:
        return trained.weights, trained.settings.rounds + 1
