"""Answers from a share of the examples: drawn anew by seed, unbiased, and one operator a basis."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from fedunlearn.node.node import TaskNode
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.kinds import PRODUCT_COST, Gradient, Products
from fedunlearn.questions.question import Answer, Question, Sample
from fedunlearn.risk.products import Curvature
from fedunlearn.unlearning.cubic_newton import CubicNewton, CubicNewtonSettings
from tests.federations import TRANSPORTS, TinyTask, weights_of
from tests.removals import DECAY, federation_of, mean_objective, trained_on

NODES = range(4)
FORGET = ForgetSet.of_samples(0.25, seed=3)
SAMPLE = Sample(0.4, seed=11)
each_transport = pytest.mark.parametrize("transport", TRANSPORTS)


def indices_of(node: int, part: Part = Part.RETAIN) -> Tensor:
    return FORGET.select(part, node, TinyTask().data(node)[1])


def ask(node: TaskNode, what: Gradient | Products, sample: Sample | None) -> Answer:
    weights = weights_of(TinyTask())
    vectors = weights.new_empty(0, len(weights))
    if isinstance(what, Products):
        vectors = torch.linspace(-1.0, 1.0, len(weights)).double()[None]
    return node.answer(
        Question("job", 0, FORGET, tuple(Part), weights, what, vectors, sample=sample)
    )


@pytest.mark.parametrize("count", [1, 2, 7, 100])
@pytest.mark.parametrize("share", [1e-6, 0.25, 0.5, 0.999, 1.0])
def test_a_draw_is_a_share_of_the_indices_without_repetition(share: float, count: int) -> None:
    indices = 5 + 3 * torch.arange(count)
    drawn = Sample(share, seed=4).draw(indices, 2, Part.RETAIN)
    assert len(drawn) == max(1, round(share * count))
    assert set(drawn.tolist()) <= set(indices.tolist())
    assert drawn.tolist() == sorted(set(drawn.tolist()))
    if share == 1.0:
        assert torch.equal(drawn, indices)


def test_a_draw_depends_on_seed_node_and_part_and_on_nothing_else() -> None:
    indices = torch.arange(1000)
    names = [(s, n, p) for s in (0, 1, 2) for n in (0, 1, 2) for p in Part]
    draws = [Sample(0.3, s).draw(indices, n, p) for s, n, p in names]
    assert len({tuple(drawn.tolist()) for drawn in draws}) == len(names)
    for (s, n, p), drawn in zip(names, draws, strict=True):
        torch.manual_seed(s)
        assert torch.equal(Sample(0.3, s).draw(indices, n, p), drawn)


def test_all_examples_are_drawn_equally_often() -> None:
    seeds, size = 2000, 12
    counts: Counter[int] = Counter()
    for seed in range(seeds):
        counts.update(Sample(0.25, seed).draw(torch.arange(size), 1, Part.RETAIN).tolist())
    expected = seeds * 0.25
    deviation = (expected * 0.75) ** 0.5
    assert all(abs(counts[index] - expected) < 5.0 * deviation for index in range(size))


@pytest.mark.parametrize("what", [Gradient(), Products(Curvature.HESSIAN)], ids=["gradient", "Hv"])
def test_estimates_are_unbiased(what: Gradient | Products) -> None:
    node, seeds = TaskNode(TinyTask(), 1), 300
    full = ask(node, what, None).values
    estimates: dict[Part, list[Tensor]] = {part: [] for part in Part}
    for seed in range(seeds):
        for part, values in ask(node, what, Sample(0.4, seed)).values.items():
            estimates[part].append(values.reshape(-1))
    for part in Part:
        found = torch.stack(estimates[part])
        error = (found.mean(0) - full[part].reshape(-1)).abs()
        deviation = found.std(0) / seeds**0.5
        assert float(deviation.max()) > 1e-3  # else the law would mean nothing
        assert float((error - 5.0 * deviation).max()) <= 1e-12


def test_a_share_of_one_is_the_sum_over_all() -> None:
    node = TaskNode(TinyTask(), 2)
    for what in (Gradient(), Products(Curvature.GGN)):
        whole, every = (ask(node, what, sample).values for sample in (None, Sample(1.0, seed=3)))
        for part in Part:
            assert torch.equal(whole[part], every[part])


def test_a_node_keeps_one_sample_and_does_not_mix_it_with_another() -> None:
    node = TaskNode(TinyTask(), 1)
    for sample in (SAMPLE, Sample(0.4, seed=12), SAMPLE, None, Sample(0.7, seed=11), None):
        found = ask(node, Products(Curvature.HESSIAN), sample)
        fresh = ask(TaskNode(TinyTask(), 1), Products(Curvature.HESSIAN), sample)
        for part in Part:
            assert torch.equal(found.values[part], fresh.values[part])


@each_transport
@pytest.mark.parametrize("curvature", Curvature)
def test_one_sample_makes_one_symmetric_operator(curvature: Curvature, transport: str) -> None:
    """It is the curvature of a weighted sum over the examples that were drawn."""
    task, weights = TinyTask(), weights_of(TinyTask())
    federation, listening = federation_of(task, NODES, transport=transport)
    objective = federation.objective(FORGET, weight_decay=DECAY)
    operator = objective.curvature(weights, curvature, SAMPLE)
    dimension = len(weights)
    identity = torch.eye(dimension, dtype=torch.float64)
    by_columns = torch.cat(
        [operator.matmat(identity[:, :20]), operator.matmat(identity[:, 20:])], 1
    )
    torch.testing.assert_close(by_columns, by_columns.T, rtol=1e-12, atol=1e-14)
    vectors = torch.randn(dimension, 2, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(operator.matmat(vectors), by_columns @ vectors)
    assert all(question.sample == SAMPLE for question, _ in listening.heard)

    retained = sum(len(indices_of(node)) for node in NODES)
    expected = DECAY * identity
    for node in NODES:
        inputs, targets = task.data(node)
        kept = indices_of(node)
        drawn = SAMPLE.draw(kept, node, Part.RETAIN)
        mean = mean_objective(task, (inputs[drawn], targets[drawn]), 0.0)
        if curvature is Curvature.HESSIAN:
            matrix = torch.func.hessian(mean)(weights)
        else:
            matrix = gauss_newton(task, inputs[drawn], weights)
        expected = expected + len(kept) / retained * matrix
    torch.testing.assert_close(by_columns, expected, rtol=1e-9, atol=1e-12)

    other = objective.curvature(weights, curvature, Sample(0.4, seed=12))
    assert float((other.matmat(identity) - by_columns).norm()) > 1e-2 * float(by_columns.norm())


def gauss_newton(task: TinyTask, inputs: Tensor, weights: Tensor) -> Tensor:
    """Return J'(diag p - pp')J, mean over examples."""
    model = task.model()
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def outputs(w: Tensor) -> Tensor:
        pieces = w.split([shape.numel() for shape in shapes.values()])
        named = {n: piece.view(shapes[n]) for n, piece in zip(shapes, pieces, strict=True)}
        return torch.func.functional_call(model, named, (inputs,))

    jacobian = torch.func.jacrev(outputs)(weights)
    p = outputs(weights).softmax(1)
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return torch.einsum("nai,nab,nbj->ij", jacobian, inner, jacobian) / len(inputs)


@each_transport
def test_a_sampled_gradient_is_that_of_the_examples_drawn(transport: str) -> None:
    task, weights = TinyTask(), weights_of(TinyTask())
    federation, _ = federation_of(task, NODES, transport=transport)
    found = federation.objective(FORGET, weight_decay=DECAY).gradient(weights, SAMPLE)
    retained = sum(len(indices_of(node)) for node in NODES)
    expected = DECAY * weights
    for node in NODES:
        inputs, targets = task.data(node)
        drawn = SAMPLE.draw(indices_of(node), node, Part.RETAIN)
        mean = mean_objective(task, (inputs[drawn], targets[drawn]), 0.0)
        share = len(indices_of(node)) / retained
        expected = expected + share * torch.func.grad(mean)(weights)
    torch.testing.assert_close(found, expected)


@each_transport
def test_compute_is_counted_at_the_share(transport: str) -> None:
    federation, _ = federation_of(TinyTask(), NODES, transport=transport)
    weights = weights_of(TinyTask())
    with federation.measure() as meter:
        objective = federation.objective(FORGET, weight_decay=DECAY)
        objective.gradient(weights, Sample(0.5, seed=1))
        objective.products(weights, weights[None], Curvature.HESSIAN, Sample(0.25, seed=1))
        objective.gradient(weights)
    cost = meter.cost(objective.retained)
    assert cost.rounds == 3
    expected = 0.5 + 0.25 * PRODUCT_COST[Curvature.HESSIAN] + 1.0
    assert cost.gradient_equivalents == pytest.approx(expected)


@each_transport
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_method_samples_its_products_only(share: float, transport: str) -> None:
    federation, listening = federation_of(TinyTask(), NODES, transport=transport)
    model = trained_on(TinyTask(), NODES, stationary=False)
    settings = {"product-share": share, "products": 4, "steps": 2, "gradient": "retained"}
    method = CubicNewton(CubicNewtonSettings.model_validate(settings))
    method.unlearn(model, federation, FORGET)
    sampled = {
        kind: [q.sample for q, _ in listening.heard if type(q.ask).__name__ == kind]
        for kind in ("Gradient", "Losses", "Products")
    }
    assert set(sampled["Gradient"]) == set(sampled["Losses"]) == {None}
    assert len(sampled["Products"]) == 8
    first, second = sampled["Products"][:4], sampled["Products"][4:]
    assert len(set(first)) == len(set(second)) == 1
    if share == 1.0:
        assert set(first) == set(second) == {None}
    else:
        assert first[0] == Sample(0.5, seed=0) and second[0] == Sample(0.5, seed=1)


def test_both_transports_give_the_same_model() -> None:
    model = trained_on(TinyTask(), NODES, stationary=False)
    method = CubicNewton(CubicNewtonSettings(product_share=0.5))
    found = [
        method.unlearn(model, federation_of(TinyTask(), NODES, transport=name)[0], FORGET).weights
        for name in TRANSPORTS
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-10)
    everything = CubicNewton(CubicNewtonSettings())
    whole = everything.unlearn(model, federation_of(TinyTask(), NODES)[0], FORGET).weights
    assert float((whole - found[0]).norm()) > 1e-3
