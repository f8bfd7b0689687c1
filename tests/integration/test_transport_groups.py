"""Gradients and summaries of groups, the same over every transport."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.kinds import (
    PRODUCT_COST,
    GroupGradients,
    Signs,
)
from fedunlearn.questions.question import Question, Sample
from fedunlearn.questions.subspace_summary import Summary
from fedunlearn.risk.products import Curvature
from fedunlearn.risk.task import Examples, Task
from tests.federations import TRANSPORTS, TinyTask, weights_of
from tests.integration.test_transports import KINDS, NODES, objective_over
from tests.integration.test_transports import transport as transport
from tests.removals import PlaneTask, mean_objective


def groups_of(
    task: Task, node: int, forget: ForgetSet, part: Part, *, by_label: bool
) -> dict[int | None, Tensor]:
    """Return the indices of each group, by its label; None where there is but one."""
    targets = task.data(node)[1]
    indices = forget.select(part, node, targets)
    if not by_label:
        return {None: indices} if len(indices) else {}
    found = sorted(set(targets[indices].tolist()))
    return {label: indices[targets[indices] == label] for label in found}


def gradient_of(task: Task, examples: Examples, point: Tensor) -> Tensor:
    mean: Tensor = torch.func.grad(mean_objective(task, examples, 0.0))(point)
    return len(examples[0]) * mean


def curvature_of(task: Task, examples: Examples, point: Tensor, kind: Curvature) -> Tensor:
    """Return the whole matrix (d, d) of the sum, from dense derivatives."""
    inputs, targets = examples
    if kind is Curvature.HESSIAN:
        hessian: Tensor = torch.func.hessian(mean_objective(task, examples, 0.0))(point)
        return len(inputs) * hessian
    model = task.model()
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def outputs_at(weights: Tensor) -> Tensor:
        pieces = weights.split([shape.numel() for shape in shapes.values()])
        named = {n: piece.view(shapes[n]) for n, piece in zip(shapes, pieces, strict=True)}
        outputs: Tensor = functional_call(model, named, (inputs,))
        return outputs.reshape(-1)

    def loss_of(outputs: Tensor) -> Tensor:
        return len(inputs) * task.loss(outputs.reshape(len(inputs), -1), targets)

    jacobian = torch.func.jacrev(outputs_at)(point)
    ggn: Tensor = jacobian.T @ torch.func.hessian(loss_of)(outputs_at(point)) @ jacobian
    return ggn


def taken(task: Task, node: int, indices: Tensor) -> Examples:
    inputs, targets = task.data(node)
    return inputs[indices], targets[indices]


@pytest.mark.parametrize("by_label", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_groups_add_up_to_that_of_all(
    transport: str, kind: str, by_label: bool
) -> None:
    task, forget = TinyTask(), KINDS[kind]
    weights = weights_of(task)
    reach = TRANSPORTS[transport](task, NODES)
    total = torch.zeros_like(weights)
    heard = {}
    objective = objective_over(reach, forget)
    for node, labels, rows in objective.group_gradients(weights, by_label=by_label):
        groups = groups_of(task, node, forget, Part.RETAIN, by_label=by_label)
        assert (labels or (None,)) == tuple(groups)
        for row, indices in zip(rows, groups.values(), strict=True):
            torch.testing.assert_close(row, gradient_of(task, taken(task, node, indices), weights))
        total += rows.sum(0)
        heard[node] = rows
    assert set(heard) == set(range(NODES)) - forget.nodes
    mean = objective.gradient(weights)
    torch.testing.assert_close(total / objective.retained, mean)


@pytest.mark.parametrize("by_label", [False, True])
def test_signed_sums_are_the_groups_gradients_times_their_signs(
    transport: str, by_label: bool
) -> None:
    task, forget = TinyTask(), KINDS["samples"]
    weights = weights_of(task)
    reach = TRANSPORTS[transport](task, NODES)
    objective = objective_over(reach, forget)
    signs = Signs(9, seed=5)
    by_hand = {
        node: signs.draw(node, labels, weights.dtype) @ rows
        for node, labels, rows in objective.group_gradients(weights, by_label=by_label)
    }
    question = Question(
        "job",
        0,
        forget,
        (Part.RETAIN,),
        weights,
        GroupGradients(by_label, signs),
        weights.new_empty(0, len(weights)),
    )
    for answer in reach.transport.ask(question, reach.nodes, deadline_s=30.0):
        assert answer.labels == {}  # which labels a node holds stays with it
        torch.testing.assert_close(answer.values[Part.RETAIN], by_hand[answer.node])
    found = objective.signed_gradients(weights, by_label=by_label, signs=signs)
    assert found.dtype == weights.dtype
    torch.testing.assert_close(found, torch.stack(list(by_hand.values())).sum(0))


@pytest.mark.parametrize("sample", [None, Sample(0.4, seed=2)], ids=str)
@pytest.mark.parametrize("part", Part)
@pytest.mark.parametrize("by_label", [False, True])
@pytest.mark.parametrize("curvature", Curvature)
def test_summaries_are_what_the_subspace_sees(
    transport: str, curvature: Curvature, by_label: bool, part: Part, sample: Sample | None
) -> None:
    """The gradient is of all examples whatever the sample, the curvature of the sample's alone."""
    task, forget = TinyTask(), KINDS["samples"]
    weights = weights_of(task)
    generator = torch.Generator().manual_seed(4)
    # More directions than are multiplied at once.
    basis = torch.linalg.qr(torch.randn(len(weights), 11, generator=generator).double())[0].T
    objective = objective_over(TRANSPORTS[transport](task, NODES), forget)
    nodes = set()
    for node, labels, summaries in objective.summaries(
        weights, basis, curvature, part=part, by_label=by_label, sample=sample
    ):
        groups = groups_of(task, node, forget, part, by_label=by_label)
        assert (labels or (None,)) == tuple(groups)
        for summary, indices in zip(summaries, groups.values(), strict=True):
            gradient = gradient_of(task, taken(task, node, indices), weights)
            drawn = indices if sample is None else sample.draw(indices, node, part)
            assert sample is None or len(drawn) == max(1, round(0.4 * len(indices)))
            matrix = curvature_of(task, taken(task, node, drawn), weights, curvature)
            seen = basis @ matrix @ basis.T * (len(indices) / len(drawn))
            along = basis @ gradient
            assert summary.examples == len(indices)
            assert summary.square == pytest.approx(float(gradient @ gradient))
            assert summary.outside == pytest.approx(
                float(gradient @ gradient - along @ along), rel=1e-9
            )
            np.testing.assert_allclose(summary.gradient, along, rtol=1e-9, atol=1e-11)
            np.testing.assert_allclose(summary.curvature, seen, rtol=1e-9, atol=1e-9)
        nodes.add(node)
    assert nodes == set(range(NODES))


@pytest.mark.parametrize("kind", KINDS)
def test_only_who_holds_some_of_a_part_summarises_it(transport: str, kind: str) -> None:
    task, forget = TinyTask(), KINDS[kind]
    weights = weights_of(task)
    basis = torch.eye(len(weights), dtype=torch.float64)[:3]
    objective = objective_over(TRANSPORTS[transport](task, NODES), forget)
    total = Summary.nothing(3)
    heard = set()
    for node, _, summaries in objective.summaries(
        weights, basis, Curvature.GGN, part=Part.FORGET, by_label=True
    ):
        heard.add(node)
        total = sum(summaries, total)
    assert heard == set(forget.nodes or range(NODES))
    assert total.examples == objective.forgotten


@pytest.mark.parametrize("signs", [None, Signs(3, seed=1)], ids=str)
def test_targets_that_are_no_labels_make_one_group(transport: str, signs: Signs | None) -> None:
    task = PlaneTask("ridge")
    weights = torch.arange(9, dtype=torch.float64) / 9.0
    nothing = ForgetSet.of_nodes()
    objective = objective_over(TRANSPORTS[transport](task, NODES), nothing)
    wholes = [gradient_of(task, task.data(node), weights) for node in range(NODES)]
    if signs is not None:
        wanted = sum(
            signs.draw(node, (), weights.dtype) * whole for node, whole in enumerate(wholes)
        )
        found = objective.signed_gradients(weights, by_label=True, signs=signs)
        torch.testing.assert_close(found, wanted)
        return
    for node, labels, rows in objective.group_gradients(weights, by_label=True):
        assert labels == ()
        torch.testing.assert_close(rows, wholes[node][None])
    basis = torch.eye(9, dtype=torch.float64)
    for node, labels, summaries in objective.summaries(
        weights, basis, Curvature.GGN, part=Part.RETAIN, by_label=True
    ):
        assert labels == ()
        (summary,) = summaries
        np.testing.assert_allclose(summary.gradient, wholes[node], rtol=1e-9)
        matrix = curvature_of(task, task.data(node), weights, Curvature.GGN)
        np.testing.assert_allclose(summary.curvature, matrix, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sample", [None, Sample(0.25, seed=0)], ids=str)
@pytest.mark.parametrize("curvature", Curvature)
def test_rounds_of_groups_are_counted(
    transport: str, curvature: Curvature, sample: Sample | None
) -> None:
    task = TinyTask()
    weights = weights_of(task)
    reach = TRANSPORTS[transport](task, NODES)
    objective = objective_over(reach, ForgetSet.of_nodes(2))
    basis = torch.eye(len(weights), dtype=torch.float64)[:5]
    signs = Signs(7, seed=0)
    share = 1.0 if sample is None else 0.25
    with reach.meters.measure() as gradients:
        list(objective.group_gradients(weights, by_label=True))
    with reach.meters.measure() as signed:
        objective.signed_gradients(weights, by_label=True, signs=signs)
    with reach.meters.measure() as summaries:
        list(
            objective.summaries(
                weights, basis, curvature, part=Part.RETAIN, by_label=False, sample=sample
            )
        )
    retained = objective.retained
    assert [meter.rounds for meter in (gradients, signed, summaries)] == [1, 1, 1]
    assert gradients.example_gradients == signed.example_gradients == retained
    assert summaries.example_gradients == pytest.approx(
        retained * (1.0 + share * 5 * PRODUCT_COST[curvature])
    )
    # Three nodes answer; each of their summaries is 5 (5 + 3) / 2 + 3 numbers.
    assert 3 * 23 * 8 <= summaries.bytes_up < 3 * 23 * 8 + 3 * 2000
    assert 3 * 7 * len(weights) * 8 <= signed.bytes_up < 3 * (7 * len(weights) * 8 + 2000)
