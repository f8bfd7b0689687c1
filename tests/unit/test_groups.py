"""Groups of examples: how targets split into labels, signs that hide them, and odd recordings."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedunlearn.errors import ForgetSetError, TaskError
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.node.node import TaskNode
from fedunlearn.node.sums import split_by_label
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.kinds import (
    Ask,
    Gradient,
    GroupGradients,
    Losses,
    Products,
    Signs,
    Summaries,
)
from fedunlearn.questions.question import Question
from fedunlearn.recording.recording import Group, Recording
from fedunlearn.recording.recording_settings import RecordingSettings
from fedunlearn.risk.products import Curvature
from fedunlearn.unlearning.instant_cubic_newton import (
    InstantCubicNewton,
    InstantCubicNewtonSettings,
)
from tests.federations import TRANSPORTS, TinyTask, weights_of
from tests.laws import laws
from tests.removals import SETTINGS, federation_of, trained_on

pytestmark = pytest.mark.slow

LAW = laws(60)


@LAW
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 99))
def test_labels_split_examples_and_lose_none(labels: list[int], seed: int) -> None:
    targets = torch.tensor(labels)
    chosen = np.random.default_rng(seed).random(len(labels)) < 0.6
    indices = torch.nonzero(torch.from_numpy(chosen))[:, 0]
    groups = split_by_label(targets, indices)
    assert list(groups) == sorted(set(targets[indices].tolist()))
    for label, group in groups.items():
        assert len(group) and bool((targets[group] == label).all())
        assert group.tolist() == sorted(group.tolist())
    assert sorted(itertools.chain(*(g.tolist() for g in groups.values()))) == indices.tolist()


@pytest.mark.parametrize(
    "targets",
    [
        torch.tensor([0.0, 1.0, 2.0]),
        torch.tensor([[0], [1], [2]]),
        torch.tensor([1, -1, 1]),
        torch.tensor([True, False, True])[:, None],
    ],
    ids=str,
)
def test_other_targets_are_not_labels(targets: Tensor) -> None:
    assert split_by_label(targets, torch.tensor([0, 2])) == {}


def test_whether_targets_are_labels_does_not_depend_on_the_part() -> None:
    """Else what leaves would be of other groups than what was recorded."""
    targets = torch.tensor([1, -1, 1])
    assert split_by_label(targets, torch.tensor([0])) == {}


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.int64], ids=str)
def test_labels_may_be_any_whole_numbers(dtype: torch.dtype) -> None:
    targets = torch.tensor([1, 0, 1]).to(dtype)
    groups = split_by_label(targets, torch.arange(3))
    assert {label: group.tolist() for label, group in groups.items()} == {0: [1], 1: [0, 2]}


@LAW
@given(st.integers(1, 20), st.integers(0, 2**32), st.integers(0, 99), st.sets(st.integers(0, 99)))
def test_signs_belong_to_a_node_and_a_label(
    columns: int, seed: int, node: int, labels: set[int]
) -> None:
    """A label's signs are the same whatever other labels the node holds."""
    signs = Signs(columns, seed)
    ordered = sorted(labels)
    drawn = signs.draw(node, ordered, torch.float64)
    assert drawn.shape == (columns, len(ordered) or 1)
    assert bool((drawn.abs() == 1.0).all())
    for label, column in zip(ordered, drawn.T, strict=False):
        assert torch.equal(signs.draw(node, [label], torch.float32)[:, 0].double(), column)


def test_signs_of_nodes_labels_and_seeds_are_independent() -> None:
    drawn = torch.cat(
        [
            Signs(4096, seed).draw(node, labels, torch.float64)
            for seed, node, labels in itertools.product((0, 1), (0, 1), ((), (0, 1)))
        ],
        dim=1,
    )
    correlations = drawn.T @ drawn / 4096
    torch.testing.assert_close(correlations, torch.eye(12).double(), atol=0.08, rtol=0.0)


ASKS: list[tuple[Ask, bool, bool, tuple[int, ...]]] = [
    (Gradient(), False, False, (33,)),
    (Products(Curvature.GGN), False, False, (2, 33)),
    (Losses(), False, False, (3,)),
    (GroupGradients(by_label=True), True, True, (4, 33)),
    (GroupGradients(by_label=False), True, False, (4, 33)),
    (GroupGradients(by_label=True, signs=Signs(5, seed=0)), False, False, (5, 33)),
    (Summaries(Curvature.GGN, by_label=True), True, True, (4, 8)),
    (Summaries(Curvature.GGN, by_label=False), True, False, (4, 8)),
]


@pytest.mark.parametrize(("ask", "in_groups", "by_label", "shape"), ASKS, ids=str)
def test_questions_know_their_rows(
    ask: Ask, in_groups: bool, by_label: bool, shape: tuple[int, ...]
) -> None:
    nobody = ForgetSet.of_nodes()
    vectors = torch.zeros(2, 33)
    question = Question("job", 0, nobody, (Part.RETAIN,), torch.zeros(33), ask, vectors)
    assert (question.in_groups, question.by_label) == (in_groups, by_label)
    assert question.answer_shape(groups=4) == shape


def test_a_part_of_which_there_is_nothing_has_no_groups() -> None:
    task = TinyTask()
    point = weights_of(task)
    asked = GroupGradients(by_label=True)
    nobody = ForgetSet.of_nodes()
    question = Question("job", 0, nobody, tuple(Part), point, asked, point.new_empty(0, len(point)))
    answer = TaskNode(task, 1).answer(question)
    assert set(answer.values) == set(answer.labels) == {Part.RETAIN}


def method_of(**more: Any) -> InstantCubicNewton:
    settings = {"range": 4, "krylov_directions": 8, "directions": 6} | more
    return InstantCubicNewton(InstantCubicNewtonSettings(**settings))


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs[:, 0] - targets).square().mean()


class PlusMinus(TinyTask):
    """Whole numbers, of which node 1 alone has one below 0: there they are no labels."""

    loss = staticmethod(squares)

    def data(self, node: int) -> tuple[Tensor, Tensor]:
        inputs, targets = super().data(node)
        return inputs, (targets > 0).long() * 2 - 1 if node == 1 else (targets > 0).long()


@pytest.mark.parametrize(
    ("forget", "stored"),
    [
        (ForgetSet.of_class(1), False),
        (ForgetSet.of_class(1, on=[1]), False),
        (ForgetSet.of_class(1, on=[0]), True),
        (ForgetSet.of_nodes(1), True),
    ],
    ids=str,
)
def test_a_class_is_asked_for_where_a_node_has_no_labels(forget: ForgetSet, stored: bool) -> None:
    """Its one group may hold some of it, which would otherwise stay in silence."""
    task = PlusMinus()
    method = method_of()
    federation, listening = federation_of(task, range(3))
    model = federation.record(trained_on(task, range(3), stationary=False), method.to_record())
    (kept,) = (recorded.value for recorded in model.recorded.values())
    assert isinstance(kept, Recording)
    assert {group for group in kept.groups if group.node == 1} == {Group(1, None)}
    listening.heard.clear()
    found = method.unlearn(model, federation, forget)
    assert bool(listening.heard) is not stored
    assert found.trained is not None
    (after,) = (recorded.value for recorded in found.trained.recorded.values())
    gone = sum(int(forget.forgotten_by_now(node, task.data(node)[1]).sum()) for node in range(3))
    assert after.stays.examples == kept.examples - gone
    assert sum(s.examples for s in after.groups.values()) == after.stays.examples


def test_settings_name_what_is_asked() -> None:
    assert RecordingSettings().kind is Curvature.GGN
    assert RecordingSettings(curvature="hessian-abs").kind is Curvature.HESSIAN
    with pytest.raises(ValueError, match="sums-only"):
        RecordingSettings(sums_only=True)


@pytest.mark.parametrize("columns", [6, 40])
@pytest.mark.parametrize("groups", ["classes", "nodes"])
@pytest.mark.parametrize("policy", ["stored", "on-departure"])
def test_one_node_alone_can_be_recorded(policy: str, groups: str, columns: int) -> None:
    """Its records can leave; where it is the only group there is no removal to learn from."""
    method = method_of(policy=policy, groups=groups, directions=columns)
    federation, _ = federation_of(TinyTask(), [0])
    alone = trained_on(TinyTask(), [0], stationary=False)
    model = federation.record(alone, method.to_record())
    found = method.unlearn(model, federation, ForgetSet.of_samples(0.3, seed=1))
    assert float((found.weights - alone.weights).norm()) > 1e-3
    with pytest.raises(ForgetSetError, match="something must stay"):
        method.unlearn(model, federation, ForgetSet.of_nodes(0))


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("sums_only", [False, True])
def test_gradients_of_zero_leave_nothing_to_record(transport: str, sums_only: bool) -> None:
    class Dead(TinyTask):
        def model(self) -> torch.nn.Module:
            layers = (torch.nn.Linear(2, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3, bias=False))
            return torch.nn.Sequential(*layers).double()

    nowhere = torch.zeros(30, dtype=torch.float64)
    federation, _ = federation_of(Dead(), range(3), transport=transport)
    method = method_of(range=40, krylov_directions=80, policy="on-departure", sums_only=sums_only)
    with pytest.raises(TaskError, match=r"gradients are zero at linearise-at = 1"):
        federation.record(TrainedModel(nowhere, nowhere, SETTINGS), method.to_record())


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("policy", ["stored", "on-departure"])
def test_who_must_be_asked_and_is_not_there_is_named(transport: str, policy: str) -> None:
    method = method_of(policy=policy)
    federation, listening = federation_of(TinyTask(), range(3), transport=transport)
    model = federation.record(
        trained_on(TinyTask(), range(3), stationary=False), method.to_record()
    )
    listening.heard.clear()
    absent = [ForgetSet.of_samples(0.3, seed=1, on=[1, 9])]
    if policy == "on-departure":
        absent += [ForgetSet.of_nodes(9), ForgetSet.of_nodes(1, 9), ForgetSet.of_class(1, on=[9])]
    for forget in absent:
        with pytest.raises(ForgetSetError, match="node 9 must be asked and is not enrolled"):
            method.unlearn(model, federation, forget)
    assert not listening.heard


def test_a_working_space_smaller_than_the_range_is_refused() -> None:
    with pytest.raises(ValueError, match="krylov-directions: 20 is less than range = 40"):
        InstantCubicNewtonSettings(krylov_directions=20)
