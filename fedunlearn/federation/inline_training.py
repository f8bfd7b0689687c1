"""Federated averaging over nodes in this process.

The arithmetic is that of Flower's ``FedAvg``, operation by operation, so that a model trained here
equals one that Flower trained to the last bit: McMahan et al. 2017, algorithm 1, with all nodes in
every round and weights by number of examples.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from fedunlearn.errors import ForgetSetError
from fedunlearn.federation.accounting import MeterStack
from fedunlearn.federation.training import (
    LocalResult,
    OnLocal,
    OnRound,
    TrainingPlan,
    values_of_round,
)
from fedunlearn.federation.transport.base import node_failure
from fedunlearn.federation.transport.payload import tensors_bytes, values_bytes
from fedunlearn.node.node import TaskNode
from fedunlearn.node.safe_message import safe_message
from fedunlearn.risk.local_rules import LocalPlan


class InlineTrainer:
    """A trainer that calls each node in turn and counts the bytes that messages would take."""

    def __init__(
        self, nodes: Mapping[int, TaskNode], enrolled: Collection[int], meters: MeterStack
    ) -> None:
        """Take the nodes by number.

        Args:
            nodes: The nodes; the mapping may make a node when it is looked up.
            enrolled: Numbers of the nodes that take part.
            meters: Meters that count rounds, bytes and compute.
        """
        self.nodes = nodes
        self.enrolled = sorted(enrolled)
        self.meters = meters

    def train(
        self, start: Tensor, plan: TrainingPlan, on_round: OnRound, on_local: OnLocal | None = None
    ) -> Tensor:
        """See Trainer."""
        active = [node for node in self.enrolled if plan.has_work(node)]
        if not active:
            raise ForgetSetError(f"forget: {plan.without} is every node; at least one must stay")
        latest = start
        for number in range(plan.first_round, plan.first_round + plan.rounds):
            results = self._round(latest, plan, number, active)
            if not results:
                raise ForgetSetError(f"forget: {plan.without} leaves nothing to train on")
            if on_local is not None:
                on_local(number, latest, results)
            latest = averaged(list(results.values()))
            seen = sum(result.examples for result in results.values())
            self.meters.count_compute(plan.epochs * plan.rule.cost * seen)
            on_round(number, latest)
        return latest

    def _round(
        self, weights: Tensor, plan: TrainingPlan, number: int, active: Sequence[int]
    ) -> dict[int, LocalResult]:
        """Run one round and return the results of the nodes that have examples to train on."""
        settings = plan.settings
        sent = values_bytes(values_of_round(plan, number)) + tensors_bytes({"weights": weights})
        if plan.reference is not None:
            sent += tensors_bytes({"reference": plan.reference})
        self.meters.count_round()
        results = {}
        for node in active:
            self.meters.count_bytes(down=sent)
            local = LocalPlan(
                epochs=plan.epochs,
                batch_size=settings.batch_size,
                learning_rate=plan.rate(number),
                weight_decay=settings.weight_decay,
                order=(plan.seed, number, node),
            )
            try:
                trained, examples = self.nodes[node].train(
                    weights, local, plan.without, plan.part, plan.rule, plan.reference
                )
            except Exception as error:
                raise node_failure(node, type(error).__name__, safe_message(error)) from error
            metrics = {"num-examples": examples}
            self.meters.count_bytes(up=tensors_bytes({"weights": trained}) + values_bytes(metrics))
            if examples:
                results[node] = LocalResult(trained, examples)
        return results


def averaged(results: Sequence[LocalResult]) -> Tensor:
    """Return the mean of the nodes' weights (d,), weighted by number of examples.

    Args:
        results: At least one result, in the order in which they are added.

    Returns:
        The mean as a new tensor, shape (d,).
    """
    examples = sum(result.examples for result in results)
    shares = [result.examples / examples for result in results]
    total = results[0].weights * shares[0]
    for result, share in zip(results[1:], shares[1:], strict=True):
        total += result.weights * share  # two operations, since a fused one rounds differently
    return total
