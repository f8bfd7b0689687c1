"""A strategy that remembers what removals need of training, around any other strategy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from typing_extensions import override

from fedunlearn.errors import InputError

CHECKPOINTS = 4


class RememberingStrategy(Strategy):
    """Remembers how training went: where it started, who took part when, a few checkpoints.

    Wraps a strategy as Flower's differential-privacy strategies do, and changes nothing of what it
    does::

        strategy = RememberingStrategy(FedAvg(fraction_train=0.5))
        result = strategy.start(grid, initial_arrays, num_rounds=10)
        with unlearning(grid, context, model=Net, trained=result.arrays, strategy=strategy) as ...

    Attributes:
        strategy: The wrapped one.
        initial: The arrays before the first round; None before training.
        rounds: How many rounds of training were configured.
        participants: By round, the Flower node ids that were asked to train.
        checkpoints: By round, the arrays before it; at most ``CHECKPOINTS`` at equal distances.
        train_config: What the nodes were sent beside the arrays, without the number of the round.
    """

    def __init__(self, strategy: Strategy, *, checkpoints: int = CHECKPOINTS) -> None:
        """Wrap a strategy before its training starts.

        Args:
            strategy: Any of Flower's or of the user's.
            checkpoints: How many to keep at most; each takes the memory of the model.

        Raises:
            InputError: It is no strategy, or the number is negative.
        """
        if not isinstance(strategy, Strategy):
            raise InputError(
                f"strategy: {type(strategy).__name__} is no strategy of flwr.serverapp.strategy; "
                "give RememberingStrategy(FedAvg(...)) or the like"
            )
        if checkpoints < 0:
            raise InputError("checkpoints: must be 0 or more")
        self.strategy = strategy
        self.initial: ArrayRecord | None = None
        self.rounds = 0
        self.participants: dict[int, tuple[int, ...]] = {}
        self.checkpoints: dict[int, ArrayRecord] = {}
        self.train_config: ConfigRecord | None = None
        self._most = checkpoints
        self._apart = 1
        self._unused = copy.deepcopy(strategy)

    def anew(self) -> Strategy:
        """Return the strategy as it was before training: its moments hold nothing of what left."""
        return copy.deepcopy(self._unused)

    @override
    def start(self, grid: Grid, initial_arrays: ArrayRecord, *more: Any, **named: Any) -> Result:
        """Run the wrapped strategy's own ``start``, which it may have changed; see Strategy.

        Args:
            grid: See Strategy.
            initial_arrays: See Strategy.
            more: See Strategy.
            named: See Strategy.

        Returns:
            The wrapped strategy's result.
        """
        own = self.strategy.configure_train
        self.initial = initial_arrays

        def configure_train(
            server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
        ) -> Iterable[Message]:
            return self._remembered(own, server_round, arrays, config, grid)

        vars(self.strategy)["configure_train"] = configure_train
        try:
            return self.strategy.start(grid, initial_arrays, *more, **named)
        finally:
            del vars(self.strategy)["configure_train"]

    @override
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return self._remembered(self.strategy.configure_train, server_round, arrays, config, grid)

    def _remembered(
        self,
        configure: Callable[[int, ArrayRecord, ConfigRecord, Grid], Iterable[Message]],
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
    ) -> list[Message]:
        if self.initial is None:
            self.initial = arrays
        if self.train_config is None:
            self.train_config = copy.deepcopy(config)
        self._keep(server_round, arrays)
        messages = list(configure(server_round, arrays, config, grid))
        self.rounds = max(self.rounds, server_round)
        self.participants[server_round] = tuple(m.metadata.dst_node_id for m in messages)
        return messages

    def _keep(self, server_round: int, arrays: ArrayRecord) -> None:
        """Keep a checkpoint; where there are too many, every second goes."""
        if not self._most or (server_round - 1) % self._apart:
            return
        self.checkpoints[server_round] = arrays
        while len(self.checkpoints) > self._most:
            self._apart *= 2
            self.checkpoints = {
                number: kept
                for number, kept in self.checkpoints.items()
                if (number - 1) % self._apart == 0
            }

    @override
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        return self.strategy.aggregate_train(server_round, replies)

    @override
    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    @override
    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        return self.strategy.aggregate_evaluate(server_round, replies)

    @override
    def summary(self) -> None:
        self.strategy.summary()

    def as_dict(self) -> Mapping[str, object]:
        """Return who took part when, JSON-able."""
        return {
            "rounds": self.rounds,
            "participants": {str(n): list(nodes) for n, nodes in self.participants.items()},
        }
