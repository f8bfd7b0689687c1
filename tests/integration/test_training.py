"""Training by Flower's FedAvg, over a cohort that is complete in every round."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from flwr.app import Message
from torch import Tensor

from fedunlearn.errors import ForgetSetError, MissingAnswerError, NonFiniteError
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.training import TrainingPlan
from fedunlearn.flower.client_app import make_client_app
from fedunlearn.flower.server_app import open_federation
from fedunlearn.flower.simulation import simulate
from fedunlearn.progress import Silent
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.risk.local_rules import LocalPlan
from fedunlearn.risk.local_training import train_locally
from fedunlearn.settings import TrainingSettings
from tests.federations import BrokenTask, TinyTask, weights_of
from tests.inline_grid import InlineGrid

NODES = 4
SETTINGS = TrainingSettings(rounds=3, local_epochs=2, batch_size=8, learning_rate=0.1)


def by_hand(task: TinyTask, start: Tensor, plan: TrainingPlan) -> Tensor:
    """FedAvg in a dozen lines: McMahan et al. 2017, algorithm 1, all nodes in every round."""
    weights = start
    for number in range(plan.first_round, plan.first_round + plan.rounds):
        total, count = torch.zeros_like(start), 0
        for node in range(NODES):
            inputs, targets = task.data(node)
            if plan.without is not None:
                kept = plan.without.select(Part.RETAIN, node, targets)
                inputs, targets = inputs[kept], targets[kept]
            if not len(inputs):
                continue
            local = LocalPlan(2, 8, plan.rate(number), 1e-3, (plan.seed, number, node))
            trained = train_locally(task.model(), task.loss, (inputs, targets), weights, local)
            total, count = total + len(inputs) * trained, count + len(inputs)
        weights = total / count
    return weights


PLANS = {
    "all": TrainingPlan(SETTINGS, 3, seed=5),
    "later rounds": TrainingPlan(SETTINGS, 2, first_round=8, seed=5),
    "constant rate": TrainingPlan(SETTINGS, 2, seed=5, learning_rate=0.02),
    "without a node": TrainingPlan(SETTINGS, 3, seed=5, without=ForgetSet.of_nodes(1)),
    "without samples": TrainingPlan(SETTINGS, 2, seed=5, without=ForgetSet.of_samples(0.3, 1)),
    "without a class": TrainingPlan(SETTINGS, 2, seed=5, without=ForgetSet.of_class(2)),
}


@pytest.mark.parametrize("name", PLANS)
def test_training_is_federated_averaging(name: str) -> None:
    task, plan = TinyTask(), PLANS[name]
    start = weights_of(task)
    seen: list[int] = []

    def body(federation: Federation) -> tuple[Tensor, float, int]:
        with federation.measure() as meter:
            trained = federation.train(
                start, plan, label="", on_round=lambda number, _: seen.append(number)
            )
        return trained, meter.example_gradients, meter.rounds

    trained, compute, rounds = simulate(task, NODES, body)
    torch.testing.assert_close(trained, by_hand(task, start, plan), rtol=1e-9, atol=1e-12)
    assert seen == list(range(plan.first_round, plan.first_round + plan.rounds))
    assert rounds == plan.rounds
    forget = plan.without
    kept = sum(
        len(forget.select(Part.RETAIN, n, task.data(n)[1])) if forget else len(task.data(n)[1])
        for n in range(NODES)
    )
    assert compute == 2 * plan.rounds * kept


def test_who_leaves_is_sent_nothing() -> None:
    task, asked = TinyTask(), []

    class Watching(InlineGrid):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            messages = list(messages)
            asked.extend((m.metadata.message_type, m.metadata.dst_node_id) for m in messages)
            return super().push_messages(messages)

    federation = open_federation(
        Watching(make_client_app(task), NODES), NODES, progress=Silent(), deadline_s=10.0
    )
    plan = PLANS["without a node"]
    assert plan.without is not None and plan.without.of_whole_nodes
    federation.train(weights_of(task), plan, label="")
    assert {node for kind, node in asked if kind == "train"} == {1, 3, 4}  # address = number + 1


def test_everybody_cannot_leave() -> None:
    everyone = TrainingPlan(SETTINGS, 1, without=ForgetSet.of_nodes(*range(NODES)))
    with pytest.raises(ForgetSetError, match="at least one must stay"):
        simulate(TinyTask(), NODES, lambda f: f.train(weights_of(TinyTask()), everyone, label=""))


def test_divergence_is_named_and_not_averaged() -> None:
    wild = TrainingPlan(SETTINGS, 40, learning_rate=1e200)
    with pytest.raises(NonFiniteError, match="training on node"):
        simulate(TinyTask(), NODES, lambda f: f.train(weights_of(TinyTask()), wild, label=""))


def drop(reply: Callable[[Message], bool]) -> type[InlineGrid]:
    class Lossy(InlineGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            return [r for r in super().pull_messages(message_ids) if not reply(r)]

    return Lossy


def test_a_node_that_does_not_answer_stops_training() -> None:
    lossy = drop(lambda r: r.metadata.message_type == "train" and r.metadata.src_node_id == 3)
    federation = open_federation(
        lossy(make_client_app(TinyTask()), NODES), NODES, progress=Silent(), deadline_s=0.3
    )
    with pytest.raises(MissingAnswerError, match="training round 1: no answer from node 2"):
        federation.train(weights_of(TinyTask()), PLANS["all"], label="")


def test_nodes_that_do_not_enrol_are_missed() -> None:
    lossy = drop(lambda r: r.metadata.src_node_id == 3)
    with pytest.raises(MissingAnswerError, match="3 of 4 nodes enrolled"):
        open_federation(
            lossy(make_client_app(TinyTask()), NODES), NODES, progress=Silent(), deadline_s=0.3
        )


def test_a_round_without_one_answer_is_an_error() -> None:
    lossy = drop(lambda r: r.metadata.message_type == "query.ask" and r.metadata.src_node_id == 2)
    federation = open_federation(
        lossy(make_client_app(TinyTask()), NODES), NODES, progress=Silent(), deadline_s=0.3
    )
    objective = federation.objective(ForgetSet.of_nodes(0), weight_decay=0.0)
    with pytest.raises(MissingAnswerError, match=r"no answer within 0\.3 s from node 1"):
        objective.gradients(weights_of(TinyTask()))


def test_a_task_that_cannot_travel_is_refused() -> None:
    task = BrokenTask("")
    task.generator = (i for i in range(3))  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="task: cannot be sent to nodes"):
        simulate(task, NODES, lambda federation: None)
