"""The laws of unlearning methods."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from fedunlearn.errors import InputError
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.parameters import initial_weights
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.risk.task import Task
from fedunlearn.settings import TrainingSettings
from fedunlearn.testing.federations import Points, in_process
from fedunlearn.unlearning.method import Claim, Unlearned, UnlearningMethod

NODES = 4
TRAINING = TrainingSettings(rounds=4, learning_rate=0.3, weight_decay=1e-3)
FORGET_SETS = {
    "node": ForgetSet.of_nodes(2),
    "records": ForgetSet.of_records({0: [1, 3], 3: [0]}),
    "class": ForgetSet.of_class(1),
}


class MethodConformance:
    """The laws of methods, on a federation of four nodes in this process.

    Example::

        class TestFineTune(MethodConformance):
            def method(self):
                return FineTune(rounds=2)

    Attributes:
        removes: The kinds of forget sets that the method can remove, of ``node``, ``records`` and
            ``class``; it must reject the others with an InputError.
    """

    removes: tuple[str, ...] = ("node", "records", "class")

    def method(self) -> UnlearningMethod[Any]:
        """Return the method, ready to run, as a new object at every call.

        Raises:
            NotImplementedError: The subclass does not define it.
        """
        raise NotImplementedError("method() of a MethodConformance returns the method")

    def task(self) -> Task:
        """Return the task of the federation; a network of 33 weights unless it is overridden."""
        return Points()

    def training(self) -> TrainingSettings:
        """Return the settings of training; a few rounds of averaging unless it is overridden."""
        return TRAINING

    def test_removes_a_node(self) -> None:
        """The method removes a node."""
        self._removes("node")

    def test_removes_records(self) -> None:
        """The method removes records of two nodes."""
        self._removes("records")

    def test_removes_a_class(self) -> None:
        """The method removes a class from all nodes."""
        self._removes("class")

    def test_the_same_answers_give_the_same_weights(self) -> None:
        """Two runs give the same weights to the last bit."""
        forget = FORGET_SETS[self.removes[0]]
        first, second = (self._run(forget)[0].weights for _ in range(2))
        assert torch.equal(first, second), (
            f"two runs of {self.method().name} give other weights; draw from a generator with a "
            "seed of the settings"
        )

    def test_counts_its_rounds(self) -> None:
        """The numbers of rounds given to on_round ascend, and the last call has the result."""
        unlearned, rounds, watched = self._run(FORGET_SETS[self.removes[0]])
        assert watched, f"{self.method().name} never calls on_round; call it with the result"
        numbers = [number for number, _ in watched]
        assert numbers == sorted(numbers), f"rounds do not ascend: {numbers}"
        assert numbers[-1] == rounds, (
            f"on_round is last called after {numbers[-1]} rounds, {rounds} were spent"
        )
        assert torch.equal(watched[-1][1], unlearned.weights), (
            "the weights that on_round is last called with are not the result"
        )

    def test_refuses_to_remove_everybody(self) -> None:
        """The method rejects a forget set of all nodes."""
        self._refuses(ForgetSet.of_nodes(*range(NODES)), "all nodes")

    def test_settings_are_given_by_keyword(self) -> None:
        """The defaults are settings, and an unknown setting is rejected in one line."""
        method = self.method()
        assert isinstance(method.settings, method.settings_type)
        again = type(method)(**dict(method.settings))
        assert again.settings == method.settings, "the same settings by keyword give others"
        try:
            type(method)(no_such_setting=1)
        except InputError as error:
            assert "\n" not in str(error), f"more than one line: {error}"
        else:
            raise AssertionError(f"{method.name} takes a setting that it does not have")

    def _removes(self, kind: str) -> None:
        if kind not in self.removes:
            self._refuses(FORGET_SETS[kind], kind)
            return
        trained = self._trained()
        before = [one.clone() for one in (trained.weights, trained.start)]
        unlearned, _, _ = self._run(FORGET_SETS[kind], trained)
        assert torch.equal(trained.weights, before[0]), "the trained weights were written to"
        assert torch.equal(trained.start, before[1]), "the initial weights were written to"
        weights = unlearned.weights
        assert weights.shape == before[0].shape, f"weights have shape {tuple(weights.shape)}"
        assert weights.dtype == before[0].dtype, f"weights are {weights.dtype}"
        assert bool(torch.isfinite(weights).all()), "weights with NaN or infinity"
        assert unlearned.status, "the status is empty"
        assert isinstance(unlearned.claim, Claim), f"the claim is {unlearned.claim!r}"
        json.dumps(dict(unlearned.details))

    def _refuses(self, forget: ForgetSet, what: str) -> None:
        try:
            self._run(forget)
        except InputError as error:
            assert "\n" not in str(error), f"more than one line: {error}"
        else:
            raise AssertionError(f"{self.method().name} does not refuse to remove {what}")

    def _trained(self) -> TrainedModel:
        method, task = self.method(), self.task()
        initial = initial_weights(task.model, seed=3)
        with in_process(task, NODES) as federation:
            return federation.fit(initial, self.training(), record=method.to_record())

    def _run(
        self, forget: ForgetSet, trained: TrainedModel | None = None
    ) -> tuple[Unlearned, int, list[tuple[int, Tensor]]]:
        trained = trained or self._trained()
        watched: list[tuple[int, Tensor]] = []
        with in_process(self.task(), NODES) as federation, federation.measure() as meter:
            unlearned = self.method().unlearn(
                trained,
                federation,
                forget,
                on_round=lambda number, weights: watched.append((number, weights.clone())),
            )
        return unlearned, meter.rounds, watched
