"""What a node does with its examples between two rounds of training: one rule a class.

``Descent`` is ordinary training. The others are what methods that were published for unlearning
ask of a node; each method says why. All walk the same batches in the same order, so that a method
differs from another in its rule alone.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from fedunlearn.errors import TaskError
from fedunlearn.parameters import ParameterLayout, flatten, load, trainable
from fedunlearn.risk.examples import Batch, Examples, TensorExamples, as_examples
from fedunlearn.risk.network import FlatNetwork, gradient_of_each
from fedunlearn.risk.task import Loss
from fedunlearn.trees import Tree, map_tensors


@dataclass(frozen=True)
class LocalPlan:
    """How a node walks through its examples.

    Attributes:
        epochs: Passes over the node's examples.
        batch_size: Examples a step.
        learning_rate: Step size.
        weight_decay: lambda of (lambda/2)||w||^2, part of the objective.
        order: Seeds the order of the examples, with the node's number.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    order: tuple[int, ...]

    def batches(self, examples: Examples | tuple[Tensor, Tensor]) -> Iterator[Batch]:
        """Yield inputs and targets, batch by batch, in a new order every epoch."""
        examples = as_examples(examples)
        generator = np.random.default_rng(self.order)
        for _ in range(self.epochs):
            order = torch.from_numpy(generator.permutation(len(examples)))
            for batch in order.split(self.batch_size):
                if isinstance(examples, TensorExamples):  # copies, which training may change
                    yield examples.inputs[batch], examples.targets[batch]
                else:
                    yield examples.batch(batch)


@dataclass(frozen=True, eq=False)
class Work:
    """What a rule works on.

    Attributes:
        model: At the weights to start from; the rule changes them.
        loss: Mean over examples.
        examples: Inputs and targets, n > 0.
        plan: Epochs, batches and step size.
        reference: Weights (d,) that the server sent beside the model, where a rule needs some.
    """

    model: nn.Module
    loss: Loss
    examples: Examples | tuple[Tensor, Tensor]
    plan: LocalPlan
    reference: Tensor | None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return list(trainable(self.model).values())

    def batches(self) -> Iterator[Batch]:
        """Yield batches where the model takes them."""
        device = ParameterLayout.of(self.model).device
        for inputs, targets in self.plan.batches(self.examples):
            yield (
                map_tensors(lambda one: one.to(device), inputs),
                map_tensors(lambda one: one.to(device), targets),
            )

    def descend(self, *, weight_decay: float, maximize: bool = False) -> torch.optim.SGD:
        """Return plain SGD with the plan's step size."""
        return torch.optim.SGD(
            self.parameters,
            lr=self.plan.learning_rate,
            weight_decay=weight_decay,
            maximize=maximize,
        )

    def required_reference(self) -> Tensor:
        """Return the reference.

        Raises:
            TaskError: The server sent none.
        """
        if self.reference is None:
            raise TaskError("training: this rule needs reference weights and none were sent")
        return self.reference


@dataclass(frozen=True)
class LocalRule(ABC):
    """A way to train on a node's examples. Frozen dataclasses of numbers: they cross the wire.

    Attributes:
        name: On the wire.
        cost: Cost of one example in one epoch, in gradients of one example.
    """

    name: ClassVar[str]
    cost: ClassVar[float] = 1.0

    @abstractmethod
    def train(self, work: Work) -> None:
        """Change the model's weights."""


@dataclass(frozen=True)
class Descent(LocalRule):
    """Plain SGD with weight decay: federated averaging's own (McMahan et al. 2017)."""

    name: ClassVar[str] = "descent"

    @override
    def train(self, work: Work) -> None:
        optimiser = work.descend(weight_decay=work.plan.weight_decay)
        for inputs, targets in work.batches():
            optimiser.zero_grad()
            work.loss(work.model(inputs), targets).backward()
            optimiser.step()


@dataclass(frozen=True)
class Ascent(LocalRule):
    """Gradient ascent in a ball around the reference (Halimi et al. 2022, algorithm 1).

    It stops once a batch's loss is that of a uniform guess: more would only destroy. The paper
    stops by the accuracy on a validation set, which a node need not have.

    Attributes:
        radius: Radius of the ball, in the norm of the weights.
        clip: Largest norm of a gradient.
    """

    name: ClassVar[str] = "ascent"

    radius: float
    clip: float

    @override
    def train(self, work: Work) -> None:
        centre = work.required_reference()
        optimiser = work.descend(weight_decay=0.0, maximize=True)
        for inputs, targets in work.batches():
            optimiser.zero_grad()
            outputs = work.model(inputs)
            loss = work.loss(outputs, targets)
            if float(loss.detach()) > math.log(outputs.shape[-1]):
                return
            loss.backward()
            nn.utils.clip_grad_norm_(work.parameters, self.clip)
            optimiser.step()
            offset = flatten(work.model) - centre
            length = float(offset.norm())
            if length > self.radius:
                load(work.model, centre + offset * (self.radius / length))


@dataclass(frozen=True)
class UnlearningCrossEntropy(LocalRule):
    """Descent on the unlearning cross-entropy -log(1 - p_y / 2) (Pan et al. 2025, equation 3).

    It is bounded, unlike the negative of the cross-entropy, and its gradient vanishes with p_y.
    """

    name: ClassVar[str] = "unlearning"

    @override
    def train(self, work: Work) -> None:
        optimiser = work.descend(weight_decay=0.0)
        for inputs, targets in work.batches():
            optimiser.zero_grad()
            chosen = work.model(inputs).softmax(-1).gather(-1, targets[:, None])
            (-torch.log1p(-chosen / 2).mean()).backward()
            optimiser.step()


@dataclass(frozen=True)
class Distillation(LocalRule):
    """Descent on a share of the divergence from a teacher plus one of the loss.

    divergence * KL(teacher || student) + loss * (loss); the teacher has the reference's weights.
    A negative divergence drives the student away from its teacher (Kurmanji et al. 2023, equation
    3); then nothing else is asked of the weights, so they do not decay.

    Attributes:
        divergence: Weight of the divergence.
        loss: Weight of the loss.
    """

    name: ClassVar[str] = "distillation"
    cost: ClassVar[float] = 4 / 3  # a gradient is three passes; the teacher adds one

    divergence: float
    loss: float

    @override
    def train(self, work: Work) -> None:
        teacher = copy.deepcopy(work.model)
        load(teacher, work.required_reference())
        decay = work.plan.weight_decay if self.divergence >= 0.0 else 0.0
        optimiser = work.descend(weight_decay=decay)
        for inputs, targets in work.batches():
            optimiser.zero_grad()
            with torch.no_grad():
                wanted = teacher(inputs).log_softmax(-1)
            outputs = work.model(inputs)
            own = outputs.log_softmax(-1)
            apart = nn.functional.kl_div(own, wanted, reduction="batchmean", log_target=True)
            value = self.divergence * apart
            if self.loss:
                value = value + self.loss * work.loss(outputs, targets)
            value.backward()
            optimiser.step()


@dataclass(frozen=True)
class FisherDescent(LocalRule):
    """Descent preconditioned by the diagonal of the empirical Fisher information.

    Source: Liu, Xu, Yuan, Wang, Li 2022, section IV: w <- w - rate m / (v + damping), with m and v
    moving averages, without bias, of the gradient and of the diagonal of the mean over the batch of
    g_i g_i'. They start anew in every round.

    Attributes:
        momentum: Factor of the moving average m, in [0, 1).
        memory: Factor of the moving average v, in [0, 1).
        damping: Added to v.
    """

    name: ClassVar[str] = "fisher-descent"

    momentum: float
    memory: float
    damping: float

    @override
    def train(self, work: Work) -> None:
        layout = ParameterLayout.of(work.model)
        first = second = torch.zeros(layout.dimension, dtype=layout.dtype)
        weights = flatten(work.model)
        for step, (inputs, targets) in enumerate(work.batches(), start=1):
            gradient, fisher = _gradient_and_fisher(work, inputs, targets)
            gradient += work.plan.weight_decay * weights
            first = self.momentum * first + (1 - self.momentum) * gradient
            second = self.memory * second + (1 - self.memory) * fisher
            mean = first / (1 - self.momentum**step)
            scale = second / (1 - self.memory**step)
            weights = weights - work.plan.learning_rate * mean / (scale + self.damping)
            load(work.model, weights)


def _gradient_and_fisher(work: Work, inputs: Tree, targets: Tree) -> tuple[Tensor, Tensor]:
    """Return the mean of the examples' gradients (d,), and of their squares (d,)."""
    flat = FlatNetwork(work.model)
    weights = flatten(work.model).to(flat.layout.device)

    def of_one(at: Tensor, one: Tree, target: Tree) -> Tensor:
        outputs = flat.outputs(at, map_tensors(lambda row: row[None], one))
        return work.loss(outputs, map_tensors(lambda row: row[None], target))

    rows = flat.holding(weights, lambda: gradient_of_each(of_one, weights, inputs, targets)).cpu()
    return rows.mean(0), rows.square().mean(0)


RULES: dict[str, type[LocalRule]] = {
    rule.name: rule
    for rule in (Descent, Ascent, UnlearningCrossEntropy, Distillation, FisherDescent)
}
