"""Federated averaging as the server plans it, and the results of nodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.wire import encode_forget_set
from fedunlearn.risk.local_rules import LocalRule
from fedunlearn.risk.local_training import ORDINARY
from fedunlearn.settings import TrainingSettings


@dataclass(frozen=True)
class Schedule:
    """The learning rate of each round of a stretch of training.

    Attributes:
        first_round: Number of the first round.
        rates: The rates, one for each round from there on.
    """

    first_round: int
    rates: tuple[float, ...]

    def rate(self, number: int) -> float:
        """Return the learning rate of a round."""
        return self.rates[number - self.first_round]


@dataclass(frozen=True, eq=False)
class TrainingPlan:
    """A stretch of federated averaging.

    Attributes:
        settings: The epochs, batches and decay.
        rounds: Number of rounds.
        first_round: Number of the first round; the learning rate decays from round 1 on.
        seed: Seed of the order of the examples on each node.
        learning_rate: A constant learning rate instead of the schedule.
        schedule: Another schedule than that of the settings. The strategy of a user's own app
            follows neither.
        local_epochs: Local epochs instead of those of the settings.
        without: The forget set; None for none.
        part: The part of their examples on which nodes train: retain set or forget set.
        rule: The rule by which nodes train.
        reference: Weights (d,) that are sent to nodes, where the rule needs some.
    """

    settings: TrainingSettings
    rounds: int
    first_round: int = 1
    seed: int = 0
    learning_rate: float | None = None
    schedule: Schedule | None = None
    local_epochs: int | None = None
    without: ForgetSet | None = None
    part: Part = Part.RETAIN
    rule: LocalRule = ORDINARY
    reference: Tensor | None = None

    @property
    def epochs(self) -> int:
        """Number of passes of a node over its examples in a round."""
        return self.local_epochs or self.settings.local_epochs

    def rate(self, number: int) -> float:
        """Return the learning rate of a round, counted from 1."""
        if self.learning_rate is not None:
            return self.learning_rate
        if self.schedule is not None:
            return self.schedule.rate(number)
        return self.settings.rate(number)

    def has_work(self, node: int) -> bool:
        """Return whether a node may hold examples of the part."""
        if self.without is None:
            return self.part is Part.RETAIN
        if self.part is Part.RETAIN:
            return node not in self.without.leavers
        named = self.without.named
        return node in named if named else node not in self.without.leavers


def values_of_round(plan: TrainingPlan, number: int) -> dict[str, int | float | str | bytes]:
    """Return the values that nodes are sent in a round of training besides the weights.

    Args:
        plan: The training plan.
        number: Number of the round, counted from 1.

    Returns:
        Values by name.
    """
    settings = plan.settings
    values: dict[str, int | float | str | bytes] = {
        "epochs": plan.epochs,
        "batch-size": settings.batch_size,
        "learning-rate": plan.rate(number),
        "weight-decay": settings.weight_decay,
        "seed": plan.seed,
        "round": number,
        "part": str(plan.part),
        "rule": plan.rule.name,
        "rule-settings": json.dumps(asdict(plan.rule)),
    }
    if plan.without is not None:
        values["without"] = encode_forget_set(plan.without).SerializeToString()
    return values


@dataclass(frozen=True, eq=False)
class LocalResult:
    """The result of one node's training in one round.

    Attributes:
        weights: Weights of the node, shape (d,).
        examples: Number of examples on which it trained.
    """

    weights: Tensor
    examples: int


OnRound = Callable[[int, Tensor], None]
# The arguments are the number of the round, the weights (d,) before it, and each node's result.
OnLocal = Callable[[int, Tensor, Mapping[int, LocalResult]], None]


@runtime_checkable
class GivesState(Protocol):
    """A trainer whose nodes train all of a model's state, not only its weights."""

    def state_of(self, weights: Tensor) -> Mapping[str, Tensor] | None:
        """Return buffers and frozen parameters that belong to weights which it has just returned.

        Args:
            weights: The weights, shape (d,).

        Returns:
            The tensors by name in ``state_dict``; None for other weights.
        """
        ...

    @property
    def from_initial(self) -> bool:
        """Whether the last training began at the initial weights, that is, was a retraining."""
        ...


class Trainer(Protocol):
    """A trainer that runs federated averaging."""

    def train(
        self, start: Tensor, plan: TrainingPlan, on_round: OnRound, on_local: OnLocal | None = None
    ) -> Tensor:
        """Train from weights (d,) and return the new ones.

        Args:
            start: Weights before the first round.
            plan: The training plan.
            on_round: Called after every round with its number and the weights.
            on_local: Called with the nodes' results before they are averaged.
        """
        ...
