"""The laws of transports."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.func import functional_call

from fedunlearn.errors import EmptyNodeError, MissingAnswerError, NodeFailedError
from fedunlearn.federation.accounting import MeterStack
from fedunlearn.federation.objective import FederatedObjective
from fedunlearn.federation.transport.base import Transport
from fedunlearn.node.node import TaskNode
from fedunlearn.parameters import initial_weights
from fedunlearn.progress import Silent
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.kinds import Gradient
from fedunlearn.questions.question import Answer, Question
from fedunlearn.risk.products import Curvature
from fedunlearn.testing.federations import Points

NODES = 4
DEADLINE_S = 30.0
FORGET = ForgetSet.of_samples(0.25, seed=3)
SECRET = "patient 4711"


class TransportConformance:
    """The laws of transports, over four nodes that the suite makes.

    Example::

        class TestInline(TransportConformance):
            waits = False

            @contextmanager
            def opened(self, nodes, meters):
                yield InlineTransport(nodes, meters)

    Attributes:
        waits: Whether the transport gives up a node that has not answered within the deadline. A
            transport that calls its nodes itself cannot do so.
    """

    waits: bool = True

    def opened(
        self, nodes: Mapping[int, TaskNode], meters: MeterStack
    ) -> AbstractContextManager[Transport]:
        """Open the transport, and close it at the end of the context.

        Args:
            nodes: The nodes, by number, which answer questions.
            meters: Meters that count rounds and bytes.

        Raises:
            NotImplementedError: The subclass does not define it.
        """
        raise NotImplementedError("opened() of a TransportConformance opens the transport")

    def test_answers_name_their_question(self) -> None:
        """Each node that must answer does so once, for this job, round, model and basis."""
        task = Points()
        question = _question(initial_weights(task.model, seed=0), round=7)
        with self.opened(_nodes(task), meters := MeterStack()) as transport:
            with meters.measure() as meter:
                answers = list(transport.ask(question, (1, 3), deadline_s=DEADLINE_S))
        assert sorted(answer.node for answer in answers) == [1, 3], "other nodes answered"
        for answer in answers:
            assert (answer.job, answer.round) == (question.job, question.round), "another round"
            assert answer.model_digest == question.model_digest, "another model"
            assert answer.vectors_digest == question.vectors_digest, "another basis"
        assert meter.rounds == 1, f"one round was counted as {meter.rounds}"
        least = 2 * question.point.nbytes
        assert meter.bytes_down >= least, f"{meter.bytes_down} bytes down, at least {least} sent"
        assert meter.bytes_up >= least, f"{meter.bytes_up} bytes up, at least {least} received"

    def test_sums_are_those_of_plain_torch(self) -> None:
        """Gradients, products and losses equal those over the pooled examples."""
        task = Points()
        weights = initial_weights(task.model, seed=0)
        mean = _MeanLoss(task, range(NODES), Part.RETAIN)
        with self.opened(_nodes(task), meters := MeterStack()) as transport:
            objective = _objective(transport, meters)
            gradient = objective.gradient(weights)
            torch.testing.assert_close(gradient, torch.func.grad(mean)(weights))
            generator = torch.Generator().manual_seed(5)
            vectors = torch.randn(len(weights), 3, generator=generator, dtype=weights.dtype)
            products = objective.curvature(weights, Curvature.HESSIAN).matmat(vectors)
            torch.testing.assert_close(products, torch.func.hessian(mean)(weights) @ vectors)
            losses = objective.losses(weights, 0.1 * vectors.T)
            wanted = torch.stack([mean(p) for p in (weights, *(weights + 0.1 * vectors.T))])
            torch.testing.assert_close(losses, wanted)

    def test_a_failure_names_its_node_and_nothing_of_its_data(self) -> None:
        """The text of an exception of a node's own code stays on the node."""
        message = self._failure(KeyError(SECRET), NodeFailedError)
        assert "node 2" in message, f"the node is not named: {message}"
        assert SECRET not in message, f"text of the node's exception has left it: {message}"

    def test_a_failure_for_which_the_input_is_to_blame_keeps_its_class(self) -> None:
        """An exception of this package that blames the input is raised with its class and text."""
        message = self._failure(EmptyNodeError("data: no examples"), EmptyNodeError)
        assert "node 2" in message and "no examples" in message, message

    def test_an_answer_that_does_not_come_is_missed(self) -> None:
        """An answer that is absent after the deadline is an error that names the node."""
        if not self.waits:
            return
        task, over = Points(), threading.Event()
        nodes = _nodes(task)
        nodes[2] = _NeverInTime(task, 2, over)
        with self.opened(nodes, meters := MeterStack()) as transport:
            try:
                _objective(transport, meters, deadline_s=0.5).gradient(
                    initial_weights(task.model, seed=0)
                )
            except MissingAnswerError as error:
                assert "node 2" in str(error), f"the node is not named: {error}"
            else:
                raise AssertionError("a round without one of its answers is complete")
            finally:
                over.set()

    def _failure(self, raised: Exception, wanted: type[Exception]) -> str:
        task = Points()
        nodes = _nodes(task)
        nodes[2] = _Failing(task, 2, raised)
        with self.opened(nodes, meters := MeterStack()) as transport:
            try:
                _objective(transport, meters).gradient(initial_weights(task.model, seed=0))
            except wanted as error:
                assert "\n" not in str(error), f"more than one line: {error}"
                return str(error)
        raise AssertionError("a round in which a node failed is complete")


class _Failing(TaskNode):
    def __init__(self, task: Points, number: int, error: Exception) -> None:
        super().__init__(task, number)
        self._error = error

    def answer(self, question: Question) -> Answer:
        raise self._error


class _NeverInTime(TaskNode):
    def __init__(self, task: Points, number: int, over: threading.Event) -> None:
        super().__init__(task, number)
        self._over = over

    def answer(self, question: Question) -> Answer:
        self._over.wait(DEADLINE_S)
        return super().answer(question)


def _nodes(task: Points) -> dict[int, TaskNode]:
    return {number: TaskNode(task, number) for number in range(NODES)}


def _question(point: Tensor, round: int) -> Question:
    nothing = point.new_empty(0, len(point))
    return Question("job", round, FORGET, tuple(Part), point, Gradient(), nothing)


def _objective(
    transport: Transport, meters: MeterStack, deadline_s: float = DEADLINE_S
) -> FederatedObjective:
    return FederatedObjective(
        transport,
        tuple(range(NODES)),
        FORGET,
        weight_decay=0.0,
        meters=meters,
        progress=Silent(),
        deadline_s=deadline_s,
    )


class _MeanLoss:
    """The mean loss over the pooled examples of a part, computed directly from the model."""

    def __init__(self, task: Points, nodes: Iterable[int], part: Part) -> None:
        pairs = []
        for node in nodes:
            inputs, targets = task.data(node)
            chosen = FORGET.select(part, node, targets)
            pairs.append((inputs[chosen], targets[chosen]))
        self._task, self._model = task, task.model()
        self._inputs = torch.cat([inputs for inputs, _ in pairs])
        self._targets = torch.cat([targets for _, targets in pairs])

    def __call__(self, weights: Tensor) -> Tensor:
        named, start = {}, 0
        for name, parameter in self._model.named_parameters():
            named[name] = weights[start : start + parameter.numel()].view(parameter.shape)
            start += parameter.numel()
        return self._task.loss(functional_call(self._model, named, (self._inputs,)), self._targets)
