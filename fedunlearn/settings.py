"""The base of all settings, frozen, with defaults and bounds; and the settings of training."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class Settings(BaseModel):
    """Base of all settings, which are frozen, in kebab case in files, and reject unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=_kebab,
        validate_by_name=True,
        validate_by_alias=True,
        allow_inf_nan=False,
    )


Seed = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0, strict=False)]
NotNegative = Annotated[float, Field(ge=0, strict=False)]
Share = Annotated[float, Field(gt=0, le=1, strict=False)]
# A name of a node or class as in the data: a text, or a number that represents one.
OneName = Annotated[str, Field(min_length=1)] | int | float
SeveralNames = Annotated[tuple[OneName, ...], Field(strict=False, min_length=1)]


class TrainingSettings(Settings):
    """Settings of federated averaging."""

    rounds: Annotated[int, Field(gt=0)] = 60
    local_epochs: Annotated[int, Field(gt=0)] = 2
    batch_size: Annotated[int, Field(gt=0)] = 32
    learning_rate: Positive = 0.2
    learning_rate_decay: Share = 0.98
    weight_decay: NotNegative = 1e-3
    seed: Seed = 1

    def rate(self, number: int) -> float:
        """Return the learning rate of a round, counted from 1."""
        return float(self.learning_rate * self.learning_rate_decay ** (number - 1))

    def horizon(self, examples: Iterable[int]) -> float:
        """Return the time of gradient flow that equals training: the sum of the step sizes.

        A node takes one step per batch; nodes are weighted as in federated averaging.

        Args:
            examples: Number of examples of each node.
        """
        sizes = list(examples)
        steps = sum(size * math.ceil(size / self.batch_size) for size in sizes) / sum(sizes)
        rates = sum(self.rate(number) for number in range(1, self.rounds + 1))
        return rates * self.local_epochs * steps
