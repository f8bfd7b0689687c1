"""The public suites over our own methods, data and transports, and over some that break a law."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from fedunlearn.federation.accounting import MeterStack
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.federation.training import OnRound
from fedunlearn.federation.transport.base import Transport
from fedunlearn.federation.transport.inline import InlineTransport
from fedunlearn.node.node import TaskNode
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.risk.dataset_examples import DatasetExamples
from fedunlearn.risk.examples import TensorExamples
from fedunlearn.risk.linear_head import one_vs_rest_loss, squared_loss
from fedunlearn.risk.task import Loss, Task
from fedunlearn.settings import TrainingSettings
from fedunlearn.testing import (
    DataConformance,
    ExamplesConformance,
    MethodConformance,
    Points,
    TransportConformance,
)
from fedunlearn.unlearning.fine_tune import FineTune
from fedunlearn.unlearning.method import Unlearned, UnlearningMethod
from fedunlearn.unlearning.registry import make_method, method_names
from tests.federations import InTurn, over_messages, over_session
from tests.linear_heads import LinearPoints

ONLY: Mapping[str, tuple[str, ...]] = {}
LINEAR: Mapping[str, tuple[Loss, TrainingSettings]] = {
    "exact-head": (squared_loss, TrainingSettings(solver="ridge", weight_decay=1e-3)),
    "certified-head": (
        one_vs_rest_loss,
        TrainingSettings(
            solver="one-vs-rest", weight_decay=1.0, perturbation=20.0, perturbation_seed=0
        ),
    ),
}
SMALL: Mapping[str, Mapping[str, Any]] = {"fine-tune": {"rounds": 2}}


def suite_of(name: str) -> type[MethodConformance]:
    class Suite(MethodConformance):
        removes = ONLY.get(name, MethodConformance.removes)

        def method(self) -> UnlearningMethod[Any]:
            return make_method(name, SMALL.get(name, {}))

        def task(self) -> Task:
            return LinearPoints(LINEAR[name][0]) if name in LINEAR else super().task()

        def training(self) -> TrainingSettings:
            return LINEAR[name][1] if name in LINEAR else super().training()

    return Suite


for _name in method_names():
    globals()[f"Test{_name.title().replace('-', '')}"] = suite_of(_name)


class TestTensors(ExamplesConformance):
    def examples(self) -> tuple[Tensor, Tensor]:
        return torch.arange(36.0).reshape(9, 4), torch.arange(9) % 3


class TestItems(ExamplesConformance):
    def examples(self) -> DatasetExamples:
        return DatasetExamples([({"x": torch.full((3,), float(n))}, n % 3) for n in range(9)])


class TestPoints(DataConformance):
    node = 2

    def task(self) -> Points:
        return Points()


class TestInline(TransportConformance):
    waits = False

    @contextmanager
    def opened(self, nodes: Mapping[int, TaskNode], meters: MeterStack) -> Iterator[Transport]:
        yield InlineTransport(nodes, meters)


class TestMessages(TransportConformance):
    waits = False  # the grid of these tests calls its nodes itself

    @contextmanager
    def opened(self, nodes: Mapping[int, TaskNode], meters: MeterStack) -> Iterator[Transport]:
        yield over_messages(nodes, meters)


class TestSession(TransportConformance):
    def opened(
        self, nodes: Mapping[int, TaskNode], meters: MeterStack
    ) -> AbstractContextManager[Transport]:
        # Those that compute do so in turn; one that never answers holds up nobody.
        return over_session(
            {n: InTurn(node) if type(node) is TaskNode else node for n, node in nodes.items()},
            meters,
        )


class WritesToTheModel(FineTune):
    """Trains where it should not."""

    def unlearn(
        self,
        trained: TrainedModel,
        federation: Federation,
        forget: ForgetSet,
        *,
        on_round: OnRound | None = None,
    ) -> Unlearned:
        trained.weights.mul_(0.5)
        return super().unlearn(trained, federation, forget, on_round=on_round)


class Random(FineTune):
    """Draws from the global generator."""

    def unlearn(
        self,
        trained: TrainedModel,
        federation: Federation,
        forget: ForgetSet,
        *,
        on_round: OnRound | None = None,
    ) -> Unlearned:
        found = super().unlearn(trained, federation, forget, on_round=on_round)
        found.weights.add_(1e-6 * random.random())
        return found


class Shuffled(TensorExamples):
    """Ignores the order of places."""

    def batch(self, places: Tensor) -> tuple[Tensor, Tensor]:
        return super().batch(places.sort().values)


class Noisy(Points):
    """Augments its data at random."""

    def data(self, node: int) -> tuple[Tensor, Tensor]:
        inputs, targets = super().data(node)
        return inputs + torch.randn_like(inputs), targets


class Doubling(TransportConformance):
    """Asks each node twice and counts it once."""

    @contextmanager
    def opened(self, nodes: Mapping[int, TaskNode], meters: MeterStack) -> Iterator[Transport]:
        class Twice(InlineTransport):
            def ask(self, question: Any, some: Any, /, *, deadline_s: float) -> Iterator[Any]:
                yield from super().ask(question, [*some, *some], deadline_s=deadline_s)

        yield Twice(nodes, meters)


def of_method(kind: type[FineTune]) -> MethodConformance:
    suite = MethodConformance()
    suite.method = lambda: kind(rounds=1)  # type: ignore[method-assign]
    return suite


def of_examples() -> ExamplesConformance:
    suite = ExamplesConformance()
    rows = torch.arange(18.0).reshape(9, 2)
    suite.examples = lambda: Shuffled(rows, torch.arange(9))  # type: ignore[method-assign]
    return suite


def of_task() -> DataConformance:
    suite = DataConformance()
    suite.task = Noisy  # type: ignore[method-assign]
    return suite


@pytest.mark.parametrize(
    ("law", "says"),
    [
        (lambda: of_method(WritesToTheModel).test_removes_a_node(), "were written to"),
        (
            lambda: of_method(Random).test_the_same_answers_give_the_same_weights(),
            "two runs of fine-tune",
        ),
        (lambda: of_examples().test_batches_follow_their_places(), "do not follow the places"),
        (lambda: of_task().test_reads_are_the_same(), "another batch"),
        (lambda: Doubling().test_answers_name_their_question(), "other nodes answered"),
    ],
)
def test_a_suite_finds_what_breaks_a_law(law: Callable[[], None], says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        law()


def test_a_suite_that_is_not_filled_in_says_what_is_missing() -> None:
    for call in (
        lambda: MethodConformance().method(),
        lambda: ExamplesConformance().examples(),
        lambda: DataConformance().task(),
        lambda: TransportConformance().opened({}, MeterStack()),
    ):
        with pytest.raises(NotImplementedError, match="Conformance"):
            call()


def test_the_suites_need_neither_pytest_nor_flower() -> None:
    names = "{'pytest', 'flwr', 'ray'}"
    code = f"import sys, fedunlearn.testing; print(sorted({names} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
