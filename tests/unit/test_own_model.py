"""How models are called on batches, and what of their outputs losses take."""

from __future__ import annotations

import copy
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from fedunlearn.errors import NoCurvatureError, TaskError
from fedunlearn.networks import NetworkDigest
from fedunlearn.node.own_task import OwnTask
from fedunlearn.parameters import flatten
from fedunlearn.risk.objective import EmpiricalRisk
from fedunlearn.risk.products import Curvature

pytestmark = pytest.mark.slow

COUNT = 19


def tensors() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(COUNT, 4, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(3, (COUNT,), generator=generator)


class Net(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5).double(), nn.Linear(5, width).double()
        self.drop = nn.Dropout(0.5)

    def scores(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.drop(torch.tanh(self.first(x)))
        scores: Tensor = self.last(nn.functional.dropout(hidden, 0.3, training=self.training))
        return scores

    def forward(self, x: Tensor) -> Any:
        return self.scores(x)


class Halves(Net):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.scores(torch.cat([left, right], 1))


class Keywords(Net):
    def forward(self, left: Tensor, right: Tensor | None = None, **other: object) -> Tensor:
        assert right is not None
        return self.scores(torch.cat([left, right], 1))


class WholeBatch(Net):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.scores(torch.cat([batch["left"], batch["right"]], 1))


@dataclass
class Found:
    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden: Tensor | None = None


Named = namedtuple("Named", "scores hidden")


class Returning(Net):
    """Returns its scores in an object."""

    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> Any:
        return self.form(self.scores(x))


class WithLoss(Net):
    """Returns its loss where it is given labels."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Found:
        scores = self.scores(x)
        if labels is None:
            return Found(logits=scores)
        return Found(self.weight * cross_entropy(scores, labels), scores, scores)


def rows(form: Callable[[Tensor, Tensor], Any]) -> Callable[[], list[Any]]:
    return lambda: [form(x, y) for x, y in zip(*tensors(), strict=True)]


PAIRS = rows(lambda x, y: (x, y))
IMAGES = rows(lambda x, y: {"img": x, "label": y})
LABELLED = rows(lambda x, y: {"x": x, "labels": y})
HALVES = rows(lambda x, y: {"left": x[:2], "right": x[2:], "label": y})


@dataclass(frozen=True)
class Case:
    """A model, a loss and data that all mean the cross-entropy of ``Net`` on ``tensors``."""

    model: Callable[[], nn.Module]
    loss: Any
    data: Callable[[], Any]
    more: dict[str, Any] | None = None


class OwnLoss(nn.Module):
    def forward(self, outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return cross_entropy(outputs, batch["label"])


CASES = {
    "x, y": Case(Net, cross_entropy, PAIRS),
    "a module as loss": Case(Net, nn.CrossEntropyLoss(), PAIRS),
    "a lambda": Case(Net, lambda o, t: cross_entropy(o, t), tensors),
    "several inputs": Case(Halves, cross_entropy, rows(lambda x, y: (x[:2], x[2:], y))),
    "a dictionary of inputs": Case(
        Halves, cross_entropy, rows(lambda x, y: ({"left": x[:2], "right": x[2:]}, y))
    ),
    "one key": Case(Net, cross_entropy, IMAGES),
    "one key and text": Case(
        Net, cross_entropy, rows(lambda x, y: {"img": x, "label": y, "file": "a.png"})
    ),
    "one key and coarse labels": Case(
        Net, cross_entropy, rows(lambda x, y: {"img": x, "coarse_label": y * 0, "fine_label": y})
    ),
    "a label by its ending": Case(
        Net, cross_entropy, rows(lambda x, y: {"img": x, "cell_label": y})
    ),
    "a label that is named": Case(
        Net, cross_entropy, rows(lambda x, y: {"img": x, "kind": y}), {"label": "kind"}
    ),
    "keywords": Case(Halves, cross_entropy, HALVES),
    "keywords, and others": Case(
        Keywords,
        cross_entropy,
        rows(lambda x, y: {"left": x[:2], "right": x[2:], "label": y, "id": x[0]}),
    ),
    "the batch": Case(WholeBatch, cross_entropy, HALVES),
    "a function": Case(
        Net,
        cross_entropy,
        HALVES,
        {"forward": lambda model, batch: model(torch.cat([batch["left"], batch["right"]], 1))},
    ),
    "a loss of the batch": Case(
        Net, lambda outputs, batch: cross_entropy(outputs, batch["label"]), IMAGES
    ),
    "a loss of the batch, by trial": Case(
        Net, lambda outputs, b: cross_entropy(outputs, b["label"]), IMAGES
    ),
    "a loss of a pair": Case(Net, lambda outputs, batch: cross_entropy(outputs, batch[1]), tensors),
    "a module of the batch": Case(Net, OwnLoss(), IMAGES),
    "logits": Case(lambda: Returning(lambda o: Found(logits=o)), cross_entropy, IMAGES),
    "a dictionary": Case(
        lambda: Returning(lambda o: {"out": o, "aux": 2 * o}), cross_entropy, PAIRS
    ),
    "a tuple": Case(lambda: Returning(lambda o: (o, 2 * o)), cross_entropy, PAIRS),
    "a named tuple": Case(lambda: Returning(lambda o: Named(o, 2 * o)), cross_entropy, PAIRS),
    "a loss that reads logits": Case(
        lambda: Returning(lambda o: Found(logits=o)),
        lambda outputs, y: cross_entropy(outputs.logits, y),
        IMAGES,
    ),
    "a loss that reads logits of the batch": Case(
        lambda: Returning(lambda o: SimpleNamespace(logits=o)),
        lambda outputs, batch: cross_entropy(outputs.logits, batch["label"]),
        IMAGES,
    ),
    "a loss that reads a key": Case(
        lambda: Returning(lambda o: {"out": o}), lambda o, y: cross_entropy(o["out"], y), PAIRS
    ),
    "a loss that reads the first": Case(
        lambda: Returning(lambda o: (o, 2 * o)), lambda o, y: cross_entropy(o[0], y.long()), IMAGES
    ),
    "the model's own loss": Case(WithLoss, None, LABELLED),
}
WHOLE = {
    "a loss that reads the loss": Case(
        WithLoss,
        lambda outputs, batch: outputs.loss,
        LABELLED,
        {"forward": lambda model, batch: model(**batch)},
    ),
    "a loss that reads two": Case(
        lambda: Returning(lambda o: (o, 2 * o)),
        lambda o, y: cross_entropy(o[0], y) + cross_entropy(o[1] / 2.0, y) * 0.0,
        PAIRS,
    ),
}


def task_of(case: Case) -> OwnTask:
    return OwnTask(case.model, case.loss, case.data, **(case.more or {}))


def risk_of(task: OwnTask) -> tuple[EmpiricalRisk, Tensor]:
    torch.manual_seed(3)
    model = task.model()
    return EmpiricalRisk(model, task.loss, task.data(0), chunk=6), flatten(model)


def results(case: Case, kinds: list[Curvature]) -> list[Tensor]:
    risk, weights = risk_of(task_of(case))
    directions = torch.randn(
        2, len(weights), generator=torch.Generator().manual_seed(1), dtype=weights.dtype
    )
    return [
        torch.tensor(risk.value(weights)),
        risk.gradient(weights),
        *(risk.products(weights, directions, kind) for kind in kinds),
    ]


@pytest.mark.parametrize("name", [*CASES, *WHOLE])
def test_every_way_of_calling_gives_what_tensors_give(name: str) -> None:
    kinds = [Curvature.HESSIAN, Curvature.GGN] if name in CASES else [Curvature.HESSIAN]
    expected = results(CASES["x, y"], kinds)
    case = {**CASES, **WHOLE}[name]
    for one, other in zip(results(case, kinds), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    labels = task_of(case).data(0).labels
    assert labels is not None
    assert torch.equal(labels, tensors()[1])


@pytest.mark.parametrize("name", WHOLE)
def test_a_loss_of_more_than_the_logits_has_no_gauss_newton_product(name: str) -> None:
    risk, weights = risk_of(task_of(WHOLE[name]))
    with pytest.raises(NoCurvatureError, match="let the loss take the logits alone, or use curv"):
        risk.products(weights, weights[None], Curvature.GGN)


def test_a_models_own_loss_that_is_no_cross_entropy_is_computed_with_the_model() -> None:
    risk, weights = risk_of(OwnTask(lambda: WithLoss(2.0), None, LABELLED))
    plain, _ = risk_of(task_of(CASES["x, y"]))
    torch.testing.assert_close(risk.gradient(weights), 2.0 * plain.gradient(weights))
    with pytest.raises(NoCurvatureError):
        risk.products(weights, weights[None], Curvature.GGN)


def test_an_adapted_model_is_the_users_own_by_name_and_copies() -> None:
    task = task_of(CASES["keywords"])
    model = task.model()
    assert isinstance(model, Halves)
    assert list(model.state_dict()) == list(Halves().state_dict())
    assert NetworkDigest.of(model) == NetworkDigest.of(Halves().eval())
    assert not any(module.training for module in model.modules())
    other = copy.deepcopy(model)
    inputs, _ = task.data(0).batch(torch.arange(4))
    assert torch.equal(other(inputs), model(inputs))
    with torch.no_grad():
        other.last.bias += 1.0
    torch.testing.assert_close(other(inputs), model(inputs) + 1.0)


def test_a_forward_that_was_set_on_the_object_is_called() -> None:
    def make() -> nn.Module:
        model = Net()
        inner = model.forward
        model.forward = lambda x: 2.0 * inner(x)  # type: ignore[method-assign]
        return model

    risk, weights = risk_of(OwnTask(make, cross_entropy, IMAGES))
    plain, _ = risk_of(OwnTask(Net, lambda o, t: cross_entropy(2.0 * o, t), IMAGES))
    torch.testing.assert_close(risk.gradient(weights), plain.gradient(weights))


FLOATS: dict[str, tuple[Any, Callable[[Tensor, Tensor], Any], str | None]] = {
    "one column": (mse_loss, lambda x, y: (x, y[None].double()), None),
    "one column of bits": (
        binary_cross_entropy_with_logits,
        lambda x, y: {"x": x, "y": (y[None] > 0).double()},
        None,
    ),
    "stretched": (mse_loss, lambda x, y: (x, y.double()), r"stretched to \(16, 16\)"),
    "stretched, of a dictionary": (
        mse_loss,
        lambda x, y: {"x": x, "target": float(y)},
        r"stretched to \(16, 16\)",
    ),
    "without a column": (
        binary_cross_entropy_with_logits,
        lambda x, y: (x, (y > 0).double()),
        r"return targets as targets\[:, None\]",
    ),
}


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("name", FLOATS)
def test_targets_that_are_numbers(name: str) -> None:
    loss, form, refusal = FLOATS[name]
    task = OwnTask(lambda: Net(1), loss, rows(form))
    assert task.data(0).labels is None
    if refusal is None:
        risk, weights = risk_of(task)
        assert risk.products(weights, weights[None], Curvature.GGN).isfinite().all()
        return
    with pytest.raises(TaskError, match=refusal):
        risk_of(task)
