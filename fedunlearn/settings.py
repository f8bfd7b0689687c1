"""The base of all settings, frozen, with defaults and bounds; and the settings of training."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


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


Solver = Literal["averaging", "ridge", "logistic", "one-vs-rest"]


class TrainingSettings(Settings):
    """Settings of training.

    Attributes:
        rounds: Number of rounds of federated averaging.
        local_epochs: Passes of a node over its examples in a round.
        batch_size: Size of the batches.
        learning_rate: Learning rate of the first round.
        learning_rate_decay: Factor of the learning rate from one round to the next.
        weight_decay: The weight decay lambda.
        seed: Seed of the initial weights and of the order of the examples.
        solver: ``averaging``; or, where a linear head on frozen layers is all that is trained, the
            minimiser of the objective to machine precision: ``ridge`` for the squared loss,
            ``logistic`` for the cross-entropy, ``one-vs-rest`` for a logistic loss of each class.
        perturbation: Standard deviation sigma of the random linear term b'w that is added to the
            sum of the losses, as certified removal needs; 0 for none.
        perturbation_seed: Seed of b, for experiments that can be repeated; it is as secret as b.
            None draws b from the operating system.
    """

    rounds: Annotated[int, Field(gt=0)] = 60
    local_epochs: Annotated[int, Field(gt=0)] = 2
    batch_size: Annotated[int, Field(gt=0)] = 32
    learning_rate: Positive = 0.2
    learning_rate_decay: Share = 0.98
    weight_decay: NotNegative = 1e-3
    seed: Seed = 1
    solver: Solver = "averaging"
    perturbation: NotNegative = 0.0
    perturbation_seed: Seed | None = None

    @model_validator(mode="after")
    def _perturbed_where_certified(self) -> TrainingSettings:
        if self.perturbation and self.solver != "one-vs-rest":
            raise ValueError(
                f"perturbation: is for solver = 'one-vs-rest', not {self.solver!r}; set it to 0"
            )
        if self.solver in ("logistic", "one-vs-rest") and not self.weight_decay:
            raise ValueError(
                f"weight-decay: must be greater than 0 for solver = {self.solver!r}, since the "
                "minimiser may not exist otherwise"
            )
        return self

    @property
    def step_batch(self) -> int | None:
        """The size of the batches by whose number training weighs nodes; None without batches."""
        return self.batch_size if self.solver == "averaging" else None

    def rate(self, number: int) -> float:
        """Return the learning rate of a round, counted from 1."""
        return float(self.learning_rate * self.learning_rate_decay ** (number - 1))

    def horizon(self, examples: Iterable[int]) -> float:
        """Return the time of gradient flow that equals training: the sum of the step sizes.

        A node takes one step per batch; nodes are weighted as in federated averaging.

        Args:
            examples: Number of examples of each node.
        """
        if self.solver != "averaging":
            return math.inf  # training goes on to the minimiser
        sizes = list(examples)
        steps = sum(size * math.ceil(size / self.batch_size) for size in sizes) / sum(sizes)
        rates = sum(self.rate(number) for number in range(1, self.rounds + 1))
        return rates * self.local_epochs * steps
