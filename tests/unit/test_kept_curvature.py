"""Curvature that is kept between the products of one basis."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedunlearn.node.node import TaskNode
from fedunlearn.parameters import flatten
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.kinds import Products
from fedunlearn.questions.question import Question
from fedunlearn.risk import objective
from fedunlearn.risk.local_rules import LocalPlan
from fedunlearn.risk.objective import EmpiricalRisk
from fedunlearn.risk.products import Curvature, KeptProduct, keep_product
from tests.cases import RISKS
from tests.federations import TinyTask, weights_of

pytestmark = pytest.mark.slow

COUNT, CHUNK, BASIS = 24, 4, 3


class Counter:
    """Counts how often a chunk is differentiated."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[KeptProduct] = []
        monkeypatch.setattr(objective, "keep_product", self)

    def __call__(self, *arguments: object) -> KeptProduct:
        self.made.append(keep_product(*arguments))  # type: ignore[arg-type]
        return self.made[-1]


def basis_of(name: str, curvature: Curvature, budget: int) -> Tensor:
    model, examples = RISKS[name].build(1, COUNT)
    risk = EmpiricalRisk(model, RISKS[name].loss, examples, chunk=CHUNK)
    weights = flatten(model)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(BASIS, 2, len(weights), generator=generator, dtype=weights.dtype)
    kept = risk.curvature(weights, curvature, budget=budget)
    return torch.stack([kept.products(pair) for pair in vectors])


@pytest.mark.parametrize("curvature", list(Curvature))
@pytest.mark.parametrize("name", RISKS)
def test_the_budget_changes_the_work_and_not_the_result(
    name: str, curvature: Curvature, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = Counter(monkeypatch)
    nothing = basis_of(name, curvature, 0)
    assert len(counter.made) == BASIS * COUNT // CHUNK
    sizes = [product.nbytes for product in counter.made[: COUNT // CHUNK]]
    assert min(sizes) > 0

    counter.made.clear()
    everything = basis_of(name, curvature, sum(sizes))
    assert len(counter.made) == COUNT // CHUNK

    counter.made.clear()
    some = basis_of(name, curvature, sum(sizes[:2]))
    assert len(counter.made) == BASIS * COUNT // CHUNK - 2 * (BASIS - 1)

    torch.testing.assert_close(everything, nothing, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(some, nothing, rtol=1e-12, atol=1e-12)


def test_a_node_keeps_the_curvature_of_one_basis_and_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counter = Counter(monkeypatch)
    node = TaskNode(TinyTask(), 2)
    weights = weights_of(TinyTask())

    def multiply(point: Tensor, curvature: Curvature = Curvature.GGN, job: str = "a") -> None:
        question = Question(
            *(job, 0, ForgetSet.of_nodes(0), (Part.RETAIN,), point, Products(curvature)),
            vectors=torch.ones(1, len(point)).double(),
        )
        node.answer(question)

    multiply(weights)
    multiply(weights, job="b")
    assert len(counter.made) == 1
    multiply(weights, Curvature.HESSIAN)
    assert len(counter.made) == 2
    multiply(weights + 1, Curvature.HESSIAN)
    assert len(counter.made) == 3
    node.train(weights, LocalPlan(1, 8, 0.1, 0.0, (0,)))
    multiply(weights + 1, Curvature.HESSIAN)
    assert len(counter.made) == 4
