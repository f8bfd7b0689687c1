"""Federations and trained models for removals whose answers are known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.federation.training import OnLocal, OnRound, TrainingPlan
from fedunlearn.federation.transport.base import Transport
from fedunlearn.parameters import initial_weights
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.question import Answer, Question
from fedunlearn.risk.objective import EmpiricalRisk
from fedunlearn.risk.task import Examples, Task
from fedunlearn.settings import TrainingSettings
from tests.federations import TRANSPORTS

DECAY = 1e-2
SETTINGS = TrainingSettings(weight_decay=DECAY)


class PlaneTask:
    """Three classes in the plane, linear in the weights: cross-entropy, or squares (``ridge``)."""

    def __init__(self, kind: str = "logistic") -> None:
        self.kind = kind

    @property
    def loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        return nn.MSELoss() if self.kind == "ridge" else nn.CrossEntropyLoss()

    def model(self) -> nn.Module:
        return nn.Linear(2, 3).double()

    def data(self, node: int) -> Examples:
        generator = torch.Generator().manual_seed(40 + node)
        targets = torch.randint(0, 3, (20 + 7 * node,), generator=generator)
        centres = torch.tensor([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]], dtype=torch.float64)
        noise = torch.randn(len(targets), 2, generator=generator, dtype=torch.float64)
        inputs = centres[targets] + 1.5 * noise + 0.2 * node
        if self.kind == "ridge":
            return inputs, nn.functional.one_hot(targets, 3).double()
        return inputs, targets


@dataclass
class RecordingTransport:
    """A transport that hears whom each question goes to, and what it asks."""

    transport: Transport
    heard: list[tuple[Question, tuple[int, ...]]] = field(default_factory=list)

    def ask(
        self, question: Question, nodes: Sequence[int], /, *, deadline_s: float
    ) -> Iterator[Answer]:
        self.heard.append((question, tuple(nodes)))
        yield from self.transport.ask(question, nodes, deadline_s=deadline_s)

    @property
    def asked(self) -> set[int]:
        return {node for _, nodes in self.heard for node in nodes}


class Untrained:
    """Stands where a trainer is needed and never used."""

    def train(
        self, start: Tensor, plan: TrainingPlan, on_round: OnRound, on_local: OnLocal | None = None
    ) -> Tensor:
        raise AssertionError("nothing is to be trained here")


def federation_of(
    task: Task, nodes: Iterable[int], *, transport: str = "inline"
) -> tuple[Federation, RecordingTransport]:
    """Open a federation of some of a task's nodes; those between them do not exist for it."""
    numbers = tuple(nodes)
    reach = TRANSPORTS[transport](task, max(numbers) + 1)
    listening = RecordingTransport(reach.transport)
    examples = {number: len(task.data(number)[1]) for number in numbers}
    federation = Federation(examples, listening, Untrained(), reach.meters, deadline_s=30.0)
    return federation, listening


def pooled(task: Task, nodes: Iterable[int], forget: ForgetSet, part: Part) -> Examples:
    """Return the examples of a part over some nodes."""
    pieces = []
    for node in nodes:
        inputs, targets = task.data(node)
        index = forget.select(part, node, targets)
        pieces.append((inputs[index], targets[index]))
    return torch.cat([x for x, _ in pieces]), torch.cat([y for _, y in pieces])


def mean_objective(task: Task, examples: Examples, decay: float) -> Callable[[Tensor], Tensor]:
    """Return the mean loss plus (lambda/2)||w||^2, straight from the model: no EmpiricalRisk."""
    model = task.model()
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def value(weights: Tensor) -> Tensor:
        pieces = weights.split([shape.numel() for shape in shapes.values()])
        named = {n: piece.view(shapes[n]) for n, piece in zip(shapes, pieces, strict=True)}
        outputs = torch.func.functional_call(model, named, (examples[0],))
        return task.loss(outputs, examples[1]) + 0.5 * decay * weights.square().sum()

    return value


def minimiser(objective: Callable[[Tensor], Tensor], start: Tensor, steps: int = 60) -> Tensor:
    """Return a stationary point near a start, by Newton's method with damping while it is far."""
    weights = start
    for _ in range(steps):
        gradient = torch.func.grad(objective)(weights)
        hessian = torch.func.hessian(objective)(weights)
        eigenvalues, vectors = torch.linalg.eigh(hessian)
        step = vectors @ (vectors.T @ gradient / eigenvalues.abs().clamp(min=1e-3))
        share = 1.0
        while objective(weights - share * step) > objective(weights) and share > 1e-8:
            share /= 2.0
        weights = weights - share * step
    return weights


def trained_on(task: Task, nodes: Iterable[int], *, stationary: bool) -> TrainedModel:
    """Return a model at the minimiser over all examples of some nodes, or a little off it."""
    everything = pooled(task, nodes, ForgetSet.of_nodes(), Part.RETAIN)
    initial = initial_weights(task.model, seed=3)
    weights = minimiser(mean_objective(task, everything, DECAY), initial)
    if not stationary:
        generator = torch.Generator().manual_seed(9)
        weights = weights + 0.1 * torch.randn(len(weights), generator=generator).to(weights)
    return TrainedModel(weights, initial, SETTINGS)


def gradient_norm(task: Task, nodes: Iterable[int], trained: TrainedModel) -> float:
    """Return ||grad F(w^)||."""
    examples = pooled(task, nodes, ForgetSet.of_nodes(), Part.RETAIN)
    risk = EmpiricalRisk(task.model(), task.loss, examples)
    mean = risk.gradient(trained.weights) / len(risk)
    return float((mean + trained.settings.weight_decay * trained.weights).norm())
