"""A strategy that records what removals need of training, around any other strategy."""

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
    """A strategy that records how training ran: its start, its participants, a few checkpoints.

    It wraps a strategy as Flower's differential-privacy strategies do, and does not change its
    behaviour::

        strategy = RememberingStrategy(FedAvg(fraction_train=0.5))
        result = strategy.start(grid, initial_arrays, num_rounds=10)
        with unlearning(grid, context, model=Net, trained=result.arrays, strategy=strategy) as ...

    Attributes:
        strategy: The wrapped strategy.
        initial: The arrays before the first round; None before training.
        rounds: Number of configured rounds of training.
        participants: Flower's node ids that were asked to train, by round.
        checkpoints: The arrays before a round, by round; at most ``CHECKPOINTS`` at equal
            distances.
        train_config: Values sent to the nodes besides the arrays, without the number of the round.
    """

    def __init__(self, strategy: Strategy, *, checkpoints: int = CHECKPOINTS) -> None:
        """Wrap a strategy before its training starts.

        Args:
            strategy: Any strategy of Flower's or of the user's.
            checkpoints: Largest number of checkpoints that are stored; each takes the memory of the
                model.

        Raises:
            InputError: The argument is not a strategy, or the number is negative.
        """
        if not isinstance(strategy, Strategy):
            raise InputError(
                f"strategy: {type(strategy).__name__} is not a strategy of "
                "flwr.serverapp.strategy; give RememberingStrategy(FedAvg(...)) or the like"
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
        """Return the strategy in its state before training, without moments of removed data."""
        return copy.deepcopy(self._unused)

    @override
    def start(self, grid: Grid, initial_arrays: ArrayRecord, *more: Any, **named: Any) -> Result:
        """Run the ``start`` of the wrapped strategy, which may be its own; see Strategy.

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
        self._add_checkpoint(server_round, arrays)
        messages = list(configure(server_round, arrays, config, grid))
        self.rounds = max(self.rounds, server_round)
        self.participants[server_round] = tuple(m.metadata.dst_node_id for m in messages)
        return messages

    def _add_checkpoint(self, server_round: int, arrays: ArrayRecord) -> None:
        """Store a checkpoint; where there are too many, delete every second one."""
        if not self._most or (server_round - 1) % self._apart:
            return
        self.checkpoints[server_round] = arrays
        while len(self.checkpoints) > self._most:
            self._apart *= 2
            self.checkpoints = {
                number: checkpoint
                for number, checkpoint in self.checkpoints.items()
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
        """Return the participants of each round as values that JSON can hold."""
        return {
            "rounds": self.rounds,
            "participants": {str(n): list(nodes) for n, nodes in self.participants.items()},
        }
