"""Examples as they are read: places, chunks, labels and the bytes that are committed to."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedunlearn.errors import ForgetSetError, NodeLeftError, NonFiniteError, TaskError
from fedunlearn.node.node import TaskNode
from fedunlearn.node.own_task import OwnTask
from fedunlearn.node.records import NodeRecords
from fedunlearn.node.records import record_bytes as bytes_of_tensors
from fedunlearn.parameters import flatten
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.kinds import Gradient, GroupGradients
from fedunlearn.questions.question import Question, Sample
from fedunlearn.risk.dataset_examples import BATCH_BYTES, DatasetExamples
from fedunlearn.risk.examples import TensorExamples
from fedunlearn.risk.local_rules import LocalPlan
from fedunlearn.trees import encoded, extent, map_tensors, tensors_of

COUNT = 21


def tensors() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(COUNT, 4, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(3, (COUNT,), generator=generator)


def items() -> list[dict[str, Any]]:
    return [{"img": x, "label": int(y)} for x, y in zip(*tensors(), strict=True)]


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def nodes(folder: Path | None = None) -> list[TaskNode]:
    """Return a node over plain tensors and one over items of the same data."""
    return [
        TaskNode(
            OwnTask(net, nn.functional.cross_entropy, data),
            1,
            records=None if folder is None else NodeRecords(folder / str(number)),
        )
        for number, data in enumerate((tensors, items))
    ]


def question(ask: Any, forget: ForgetSet, sample: Sample | None = None) -> Question:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        point = flatten(net())
    return Question(
        ask=ask,
        job="job",
        round=1,
        point=point,
        forget=forget,
        parts=(Part.RETAIN, Part.FORGET),
        vectors=torch.zeros(0, len(point), dtype=point.dtype),
        sample=sample,
    )


def test_consecutive_places_of_tensors_are_views_and_others_are_not() -> None:
    inputs, targets = tensors()
    examples = TensorExamples(inputs, targets)
    inside, labels = examples.batch(torch.arange(3, 9))
    assert inside.data_ptr() == inputs[3:].data_ptr()
    assert torch.equal(labels, targets[3:9])
    assert torch.equal(examples.batch(torch.tensor([3, 5, 5]))[0], inputs[[3, 5, 5]])
    assert torch.equal(examples.batch(torch.tensor([3, 2, 4]))[0], inputs[[3, 2, 4]])
    assert examples.at(torch.arange(COUNT)) is examples
    assert [len(chunk) for chunk in examples.chunks(8)] == [8, 8, 5]


@pytest.mark.parametrize(
    ("targets", "labelled"),
    [
        (torch.arange(4), True),
        (torch.arange(4.0), False),
        (torch.arange(4)[:, None], False),
        (torch.tensor([True, False, True, False]), True),
    ],
)
def test_labels_are_one_whole_number_an_example(targets: Tensor, labelled: bool) -> None:
    assert (TensorExamples(torch.zeros(4, 2), targets).labels is not None) is labelled
    pairs = list(zip(torch.zeros(4, 2), targets, strict=True))
    assert (DatasetExamples(pairs).labels is not None) is labelled


def test_records_of_tensors_are_what_they_were() -> None:
    inputs = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    targets = torch.tensor([1, 0])
    found = list(TensorExamples(inputs, targets).record_bytes())
    head = b"torch.float32(3,)torch.int64()\0"
    assert found[1] == head + inputs[1].numpy().tobytes() + targets[1].numpy().tobytes()
    assert found == list(bytes_of_tensors(inputs, targets))
    whole = hashlib.sha256(b"".join(found)).hexdigest()
    assert whole == "314dcab3ae6aa3c4a4bd5d07988c3f10355588f66e28759072dc8d1b2a21baf8"


DIFFERENT: list[Any] = [
    None,
    0,
    0.0,
    False,
    "0",
    b"0",
    "",
    [],
    (),
    {},
    [0],
    (0,),
    {"a": 0},
    {"b": 0},
    {"a": [0, 1], "b": 2},
    {"a": [0], "b": [1, 2]},
    ["ab", "c"],
    ["a", "bc"],
    torch.tensor(0),
    torch.tensor([0]),
    torch.tensor([0], dtype=torch.int32),
    torch.tensor([0.0], dtype=torch.bfloat16),
    torch.tensor([[0]]),
    np.zeros(1),
    np.zeros((1, 1)),
    np.float32(0.0),
    (torch.zeros(2), torch.zeros(1)),
    (torch.zeros(1), torch.zeros(2)),
    [torch.zeros(2), torch.zeros(1)],
]


def test_items_that_differ_have_other_bytes() -> None:
    found = [encoded(item) for item in DIFFERENT]
    assert None not in found
    assert len(set(found)) == len(DIFFERENT)
    assert encoded({"a": 1, "b": 2}) == encoded({"b": 2, "a": 1})
    assert encoded(torch.zeros(4, 2).T) == encoded(torch.zeros(2, 4))
    assert encoded(object()) is None


def test_trees_are_walked_in_order_and_keep_their_structure() -> None:
    tree = {"a": (torch.tensor(1), [torch.tensor(2)]), "b": None, "c": "text"}
    assert [int(one) for one in tensors_of(tree)] == [1, 2]
    twice = map_tensors(lambda one: 2 * one, tree)
    assert (int(twice["a"][0]), int(twice["a"][1][0]), twice["b"]) == (2, 4, None)
    assert extent({"ids": [1, 2, 3], "text": "ab", "x": torch.zeros(2, 2)}) == 9


def test_a_node_over_items_answers_as_one_over_tensors(tmp_path: Path) -> None:
    asked = [
        question(Gradient(), ForgetSet.of_class(1)),
        question(Gradient(), ForgetSet.of_samples(0.3, 5)),
        question(Gradient(), ForgetSet.of_records({1: [0, 7]})),
        question(Gradient(), ForgetSet.of_nodes(1)),
        question(GroupGradients(by_label=True), ForgetSet.of_nodes(0)),
        question(Gradient(), ForgetSet.of_class(0), Sample(share=0.5, seed=3)),
    ]
    one, other = nodes(tmp_path)
    assert one.enrol().records == other.enrol().records == COUNT
    for each in asked:
        left, right = one.answer(each), other.answer(each)
        assert left.counts == right.counts
        assert left.labels == right.labels
        for part in left.values:
            torch.testing.assert_close(left.values[part], right.values[part])
    plan = LocalPlan(2, 4, 0.1, 0.01, (1, 2))
    start = asked[0].point
    pair = [node.train(start, plan, ForgetSet.of_class(2)) for node in (one, other)]
    assert pair[0][1] == pair[1][1]
    torch.testing.assert_close(pair[0][0], pair[1][0])


def test_removed_items_are_left_out(tmp_path: Path) -> None:
    one, other = nodes(tmp_path)
    for node in (one, other):
        node.enrol()
        assert node.record_tombstones("d1", ForgetSet.of_class(1)) == int((tensors()[1] == 1).sum())
    after = question(Gradient(), ForgetSet.of_records({1: [0]}))
    torch.testing.assert_close(
        one.answer(after).values[Part.RETAIN], other.answer(after).values[Part.RETAIN]
    )
    assert one.answer(after).counts == other.answer(after).counts
    other.record_tombstones("d2", ForgetSet.of_nodes(1))
    with pytest.raises(NodeLeftError):
        other.answer(after)


def test_a_root_stays_and_other_items_are_refused(tmp_path: Path) -> None:
    def changed() -> list[dict[str, Any]]:
        return [{**item, "img": item["img"] + 1.0} for item in items()]

    loss = nn.functional.cross_entropy
    node = TaskNode(OwnTask(net, loss, items), 1, records=NodeRecords(tmp_path))
    root = node.enrol().root
    again = TaskNode(OwnTask(net, loss, items), 1, records=NodeRecords(tmp_path))
    assert again.enrol().root == root
    with pytest.raises(TaskError, match="not those that this node committed to"):
        TaskNode(OwnTask(net, loss, changed), 1, records=NodeRecords(tmp_path)).enrol()


def test_a_class_of_examples_without_labels_is_refused() -> None:
    def regression() -> list[tuple[Tensor, Tensor]]:
        return [(x, x[:1]) for x in tensors()[0]]

    task = OwnTask(lambda: nn.Linear(4, 1).double(), nn.functional.mse_loss, regression)
    node = TaskNode(task, 1)
    node.enrol()

    def of_width(forget: ForgetSet) -> Question:
        asked = question(Gradient(), forget)
        return replace(asked, point=asked.point[:5], vectors=asked.vectors[:, :5])

    with pytest.raises(ForgetSetError, match=r"a class needs whole-number targets of shape \(n,\)"):
        node.answer(of_width(ForgetSet.of_class(1)))
    assert node.answer(of_width(ForgetSet.of_nodes(1))).counts[Part.FORGET] == COUNT


def test_data_that_are_split_anew_at_every_read_are_refused() -> None:
    def anew() -> list[Any]:
        everything = items()
        return [everything[place] for place in torch.randperm(COUNT).tolist()]

    with pytest.raises(TaskError, match="other examples when it is read again"):
        TaskNode(OwnTask(net, nn.functional.cross_entropy, anew), 1).enrol()


def test_held_out_examples_are_the_nodes_own() -> None:
    task = OwnTask(net, nn.functional.cross_entropy, lambda: (items(), items()[:6]))
    held_out = TaskNode(task, 1).held_out
    assert held_out is not None
    assert len(held_out) == 6
    assert nodes()[0].held_out is None


def test_a_number_that_is_not_finite_is_found_where_it_is_read() -> None:
    broken = items()
    broken[17]["img"] = broken[17]["img"] / 0.0
    examples = OwnTask(net, nn.functional.cross_entropy, lambda: broken).data()
    examples.batch(torch.arange(17))
    with pytest.raises(NonFiniteError, match="data: inputs: 4 of"):
        examples.batch(torch.arange(COUNT))


def test_chunks_of_large_items_are_small() -> None:
    large = [(torch.zeros(BATCH_BYTES // 12), torch.tensor(0))] * 9
    assert max(len(chunk) for chunk in DatasetExamples(large).chunks(2048)) <= 3
