"""Training for removals, by the user's own strategy and the user's own ``train``."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp.strategy import Strategy
from torch import Tensor
from typing_extensions import override

from fedunlearn.errors import FederationError, InputError
from fedunlearn.federation.training import OnLocal, OnRound, TrainingPlan
from fedunlearn.flower.metered_grid import MeteredGrid
from fedunlearn.flower.model_arrays import ModelArrays
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.risk.local_training import ORDINARY

log = logging.getLogger(__name__)

LEAST = ("min_available_nodes", "min_train_nodes", "min_evaluate_nodes")


class StayingGrid(MeteredGrid):
    """A grid that shows a strategy only the nodes that stay, and counts their failures."""

    def __init__(
        self, grid: MeteredGrid, addresses: Mapping[int, int], gone: Iterable[int]
    ) -> None:
        """Hide the nodes that leave.

        Args:
            grid: The grid of the removal.
            addresses: Flower node id of each node that is enrolled.
            gone: The nodes that leave.
        """
        super().__init__(grid, grid.meters, grid.stop)
        hidden = set(gone)
        self._shown = [address for n, address in addresses.items() if n not in hidden]
        self.failed: dict[int, int] = {}

    @override
    def get_node_ids(self) -> Iterable[int]:
        here = set(self._grid.get_node_ids())
        return [address for address in self._shown if address in here]

    @override
    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        replies = list(self.exchange(messages, timeout))
        for reply in replies:
            if reply.has_error():
                address = reply.metadata.src_node_id
                self.failed[address] = self.failed.get(address, 0) + 1
        return replies


class StrategyTrainer:
    """A trainer that runs the user's strategy over the nodes that stay.

    Attributes:
        state: Buffers and frozen parameters from which training starts.
        initial: Weights, buffers and frozen parameters at the start of the user's training.
        from_initial: Whether the last training began there, that is, was a retraining.
        latest: The weights (d,) and arrays after the last training; None before any.
        remarks: Differences from the user's own training.
    """

    def __init__(
        self,
        grid: MeteredGrid,
        addresses: Mapping[int, int],
        arrays: ModelArrays,
        state: Mapping[str, Tensor],
        initial: tuple[Tensor, Mapping[str, Tensor]] | None,
        strategy: Callable[[], Strategy] | None,
        exclude: Callable[[ForgetSet], None],
        *,
        train_config: ConfigRecord | None = None,
        deadline_s: float,
    ) -> None:
        """Take the grid, the model's form and the strategy.

        Args:
            grid: The grid.
            addresses: Flower node id of each node.
            arrays: The form in which an ArrayRecord holds the model.
            state: The buffers and frozen parameters at the end of training.
            initial: Weights (d,), buffers and frozen parameters at the start of training, if known.
            strategy: Makes the user's strategy in its state before training; None where there is
                none.
            exclude: Excludes a forget set from the training of nodes.
            train_config: Values that training sends besides the arrays.
            deadline_s: Seconds for a round.
        """
        self._grid = grid
        self._addresses = addresses
        self._arrays = arrays
        self.state = dict(state)
        self.initial = initial
        self.from_initial = False
        self._strategy = strategy
        self._exclude = exclude
        self._config = train_config
        self._deadline_s = deadline_s
        self.latest: tuple[Tensor, ArrayRecord] | None = None
        self.remarks: list[str] = []

    def train(
        self, start: Tensor, plan: TrainingPlan, on_round: OnRound, on_local: OnLocal | None = None
    ) -> Tensor:
        """See Trainer; the nodes train as the user's own ``train`` does.

        Returns:
            The weights after the last round, shape (d,).

        Raises:
            InputError: The plan needs training that the user's ``train`` does not do, or there is
                no strategy.
            FederationError: No round gave a model.
        """
        if self._strategy is None:
            raise InputError(
                "this method trains, and the strategy is not known; give unlearning(..., "
                "strategy=RememberingStrategy(...)), as training used it, or a function that makes "
                "a new one"
            )
        if plan.part is not Part.RETAIN or plan.rule is not ORDINARY or on_local is not None:
            raise InputError(
                "this method trains by a rule of its own, which the app's train() does not have; "
                "take cubic-newton, fine-tune, rewind or retrain"
            )
        if plan.without is not None:
            self._exclude(plan.without)
        gone = plan.without.leavers if plan.without is not None else ()
        grid = StayingGrid(self._grid, self._addresses, gone)
        strategy = self._strategy()
        staying = len(list(grid.get_node_ids()))
        if lowered := _lower(strategy, staying):
            self.remarks.append(
                f"the strategy's {', '.join(lowered)} lowered to the {staying} nodes that stay"
            )
        self.from_initial = self.initial is not None and torch.equal(start, self.initial[0])
        state = self.initial[1] if self.initial is not None and self.from_initial else self.state
        latest = self._arrays.record(start, {**self.state, **state})

        def after_round(server_round: int, arrays: ArrayRecord) -> None:
            nonlocal latest
            if server_round:
                latest = arrays
                on_round(plan.first_round + server_round - 1, self._arrays.weights(arrays))

        if plan.rounds:
            config = ConfigRecord() if self._config is None else copy.deepcopy(self._config)
            result = strategy.start(
                grid,
                latest,
                num_rounds=plan.rounds,
                timeout=self._deadline_s,
                train_config=config,
                evaluate_fn=after_round,
            )
            if not len(result.arrays):
                raise FederationError(
                    "training gave no model: every node failed; see the logs of the nodes"
                )
            latest = result.arrays
        for address, times in grid.failed.items():
            names = {at: number for number, at in self._addresses.items()}
            self.remarks.append(f"node {names.get(address, address)} failed in {times} messages")
        weights = self._arrays.weights(latest)
        self.latest = (weights, latest) if plan.rounds else None
        return weights

    def state_of(self, weights: Tensor) -> Mapping[str, Tensor] | None:
        """See GivesState."""
        if self.latest is None or self.latest[0] is not weights:
            return None
        return self._arrays.state(self.latest[1])


def _lower(strategy: object, staying: int) -> list[str]:
    """Lower the node counts that a strategy, or one it wraps, waits for, where fewer stay."""
    lowered = []
    inner: object | None = strategy
    while inner is not None:
        for name in LEAST:
            least = getattr(inner, name, 0)
            if isinstance(least, int) and least > staying:
                setattr(inner, name, staying)
                lowered.append(name)
        inner = getattr(inner, "strategy", None)
    return sorted(set(lowered))
