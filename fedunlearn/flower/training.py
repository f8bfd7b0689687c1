"""Training by Flower's own FedAvg, over a cohort that is complete in every round."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from torch import Tensor
from typing_extensions import override

from fedunlearn.errors import ForgetSetError, MissingAnswerError
from fedunlearn.federation.training import (
    LocalResult,
    OnLocal,
    OnRound,
    TrainingPlan,
    values_of_round,
)
from fedunlearn.flower.messages import raise_failure
from fedunlearn.flower.metered_grid import MeteredGrid
from fedunlearn.flower.records import config_number, tensors_from_record, tensors_to_record
from fedunlearn.node.node import TaskNode
from fedunlearn.questions.forget import Part
from fedunlearn.questions.wire import decode_forget_set
from fedunlearn.risk.local_rules import RULES, LocalPlan, LocalRule
from fedunlearn.rpc.v1 import session_pb2 as pb

WEIGHTS = "weights"
REFERENCE = "reference"


class PinnedFedAvg(FedAvg):
    """FedAvg with the same nodes in every round, which fails where one of them is missing.

    Flower's own FedAvg drops failed replies and averages the rest, which changes the objective
    silently.
    """

    def __init__(
        self, addresses: Mapping[int, int], plan: TrainingPlan, on_local: OnLocal | None = None
    ) -> None:
        """Name the cohort.

        Args:
            addresses: Flower node id of each node that trains.
            plan: The rounds, rates and exclusions.
            on_local: Called with the nodes' results before they are averaged.
        """
        super().__init__(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
        self.addresses = addresses
        self.plan = plan
        self.on_local = on_local
        self.before: ArrayRecord | None = None
        self.examples_seen = 0

    @override
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        number = self.plan.first_round + server_round - 1
        config = ConfigRecord(dict(values_of_round(self.plan, number)))
        self.before = arrays
        record = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        if self.plan.reference is not None:
            record[REFERENCE] = tensors_to_record({REFERENCE: self.plan.reference})
        return self._construct_messages(record, list(self.addresses.values()), MessageType.TRAIN)

    @override
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        by_address = {reply.metadata.src_node_id: reply for reply in replies}
        missing = [n for n, address in self.addresses.items() if address not in by_address]
        if missing:
            raise MissingAnswerError(
                f"training round {self.plan.first_round + server_round - 1}: no answer from node "
                + ", ".join(str(number) for number in missing)
            )
        ordered = []  # by node, so that sums do not depend on the order of arrival
        local: dict[int, LocalResult] = {}
        for number, address in sorted(self.addresses.items()):
            reply = by_address[address]
            raise_failure(f"node {number}", reply)
            examples = reply.content.metric_records["metrics"]["num-examples"]
            assert isinstance(examples, int)  # written by reply_to_train
            if examples:
                self.examples_seen += examples
                ordered.append(reply)
                if self.on_local is not None:
                    trained = tensors_from_record(reply.content.array_records["arrays"])[WEIGHTS]
                    local[number] = LocalResult(trained, examples)
        if not ordered:
            raise ForgetSetError(f"forget: {self.plan.without} leaves nothing to train on")
        if self.on_local is not None:
            assert self.before is not None  # set when the round began
            round_number = self.plan.first_round + server_round - 1
            self.on_local(round_number, tensors_from_record(self.before)[WEIGHTS], local)
        return super().aggregate_train(server_round, ordered)


class FedAvgTrainer:
    """A trainer that runs FedAvg over the enrolled nodes."""

    def __init__(
        self,
        grid: MeteredGrid,
        addresses: Mapping[int, int],
        *,
        deadline_s: float,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the grid and the nodes.

        Args:
            grid: The grid.
            addresses: Flower node id of each node.
            deadline_s: Seconds for a round.
            before: Called before training starts, to free the nodes for its messages.
        """
        self.grid = grid
        self._before = before
        self.addresses = addresses
        self.deadline_s = deadline_s

    def train(
        self, start: Tensor, plan: TrainingPlan, on_round: OnRound, on_local: OnLocal | None = None
    ) -> Tensor:
        """See Trainer."""
        active = {n: a for n, a in self.addresses.items() if plan.has_work(n)}
        if not active:
            raise ForgetSetError(f"forget: {plan.without} is every node; at least one must stay")
        self._before()
        strategy = PinnedFedAvg(active, plan, on_local)
        latest, counted = start, 0

        def after_round(server_round: int, arrays: ArrayRecord) -> None:
            nonlocal latest, counted
            if server_round == 0:
                return
            seen, counted = strategy.examples_seen - counted, strategy.examples_seen
            self.grid.meters.count_compute(plan.epochs * plan.rule.cost * seen)
            latest = tensors_from_record(arrays)[WEIGHTS]
            on_round(plan.first_round + server_round - 1, latest)

        if plan.rounds:
            strategy.start(
                self.grid,
                tensors_to_record({WEIGHTS: start}),
                num_rounds=plan.rounds,
                timeout=self.deadline_s,
                evaluate_fn=after_round,
            )
        return latest


def reply_to_train(message: Message, node: TaskNode) -> Message:
    """Answer ``train`` on a node with its part of a round, from the weights in the message."""
    config = message.content.config_records["config"]
    plan = LocalPlan(
        epochs=int(config_number(config, "epochs")),
        batch_size=int(config_number(config, "batch-size")),
        learning_rate=config_number(config, "learning-rate"),
        weight_decay=config_number(config, "weight-decay"),
        order=(
            int(config_number(config, "seed")),
            int(config_number(config, "round")),
            node.number,
        ),
    )
    weights = tensors_from_record(message.content.array_records["arrays"])[WEIGHTS]
    without = config.get("without")
    forget = None
    if isinstance(without, bytes):
        forget = decode_forget_set(pb.ForgetSet.FromString(without))
    reference = None
    if REFERENCE in message.content.array_records:
        reference = tensors_from_record(message.content.array_records[REFERENCE])[REFERENCE]
    trained, examples = node.train(
        weights, plan, forget, Part(str(config["part"])), _rule(config), reference
    )
    content = RecordDict(
        {
            "arrays": tensors_to_record({WEIGHTS: trained}),
            "metrics": MetricRecord({"num-examples": examples}),
        }
    )
    return Message(content, reply_to=message)


def _rule(config: ConfigRecord) -> LocalRule:
    """Read the rule that the server requests; an unknown one raises a KeyError."""
    return RULES[str(config["rule"])](**json.loads(str(config["rule-settings"])))
