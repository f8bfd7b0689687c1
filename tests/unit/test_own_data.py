"""Every form of data that users hold gives what the plain tensors of the same data give."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from fedunlearn.errors import FedunlearnError, NotDeterministicError, OwnCodeError, TaskError
from fedunlearn.node.own_data import own_data
from fedunlearn.node.own_task import OwnTask
from fedunlearn.parameters import flatten
from fedunlearn.risk.examples import Examples, TensorExamples
from fedunlearn.risk.objective import EmpiricalRisk
from fedunlearn.risk.products import Curvature

pytestmark = pytest.mark.slow

COUNT = 23


def tensors() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(COUNT, 4, generator=generator)
    return inputs.double(), torch.randint(3, (COUNT,), generator=generator)


class Widened(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.double()


def net() -> nn.Module:
    layers = nn.Sequential(
        Widened(), nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3)
    )
    return layers.double()


class Items(Dataset[Any]):
    """A map-style dataset that counts its reads."""

    def __init__(self, form: Callable[[Tensor, Tensor], Any]) -> None:
        self.inputs, self.targets = tensors()
        self.form = form
        self.reads = 0

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, place: int) -> Any:
        self.reads += 1
        return self.form(self.inputs[place], self.targets[place])


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from zip(*tensors(), strict=True)


def named() -> Items:
    return Items(lambda x, y: {"img": x, "label": int(y)})


def huggingface(form: str | None) -> Any:
    datasets = pytest.importorskip("datasets")
    inputs, targets = tensors()
    rows = {"img": inputs.tolist(), "label": targets.tolist(), "name": ["n"] * COUNT}
    return datasets.Dataset.from_dict(rows).with_format(form)


def transformed() -> Any:
    datasets = pytest.importorskip("datasets")
    inputs, targets = tensors()

    def to_tensors(rows: dict[str, Any]) -> dict[str, Any]:
        rows["img"] = [torch.tensor(one, dtype=torch.float64) for one in rows["img"]]
        return rows

    rows = {"img": inputs.tolist(), "label": targets.tolist()}
    return datasets.Dataset.from_dict(rows).with_transform(to_tensors)


def as_dict(items: list[Any]) -> dict[str, Tensor]:
    return {"x": torch.stack([x for x, _ in items]), "y": torch.stack([y for _, y in items])}


FORMS: dict[str, Callable[[], object]] = {
    "tensors": tensors,
    "a list of two tensors": lambda: list(tensors()),
    "arrays": lambda: tuple(one.numpy() for one in tensors()),
    "a TensorDataset": lambda: TensorDataset(*tensors()),
    "a dataset of pairs": lambda: Items(lambda x, y: (x, y)),
    "whole numbers as targets": lambda: Items(lambda x, y: (x, int(y))),
    "arrays as items": lambda: Items(lambda x, y: (x.numpy(), int(y))),
    "dictionaries": named,
    "a list of items": lambda: list(zip(*tensors(), strict=True)),
    "a loader": lambda: DataLoader(Items(lambda x, y: (x, y)), batch_size=7),
    "a loader that shuffles": lambda: DataLoader(named(), batch_size=4, shuffle=True),
    "a loader of tensors": lambda: DataLoader(TensorDataset(*tensors()), batch_size=4),
    "a loader that drops the last": lambda: DataLoader(
        named(), batch_size=4, shuffle=True, drop_last=True
    ),
    "a loader with a collate": lambda: DataLoader(
        Items(lambda x, y: (x, y)), batch_size=7, collate_fn=as_dict
    ),
    "a loader with weights": lambda: DataLoader(
        named(), sampler=WeightedRandomSampler(torch.rand(COUNT) + 0.1, 50)
    ),
    "a loader with any order": lambda: DataLoader(
        named(), sampler=SubsetRandomSampler(range(COUNT))
    ),
    "batches of indices": lambda: DataLoader(
        named(), batch_sampler=[list(range(10)), list(range(10, COUNT))]
    ),
    "a HuggingFace dataset": lambda: huggingface(None),
    "a HuggingFace dataset of tensors": lambda: huggingface("torch"),
    "a HuggingFace dataset of arrays": lambda: huggingface("numpy"),
    "a HuggingFace dataset with a transform": transformed,
    "a loader over a HuggingFace dataset": lambda: DataLoader(transformed(), batch_size=5),
    "two of them": lambda: (named(), Items(lambda x, y: (x, y))),
    "two loaders": lambda: (DataLoader(named()), DataLoader(named())),
    "none held out": lambda: (named(), None),
    "by the names of splits": lambda: {"train": named(), "test": named()},
}


def risk_of(task: OwnTask, seed: int = 0) -> tuple[EmpiricalRisk, Tensor]:
    torch.manual_seed(seed)
    model = task.model()
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.linspace(0.5, 1.5, buffer.numel()))
        assert name
    return EmpiricalRisk(model, task.loss, task.data(0), chunk=6), flatten(model)


def results(risk: EmpiricalRisk, weights: Tensor) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(2, len(weights), generator=generator, dtype=weights.dtype)
    return [
        torch.tensor(risk.value(weights)),
        risk.gradient(weights),
        *(risk.products(weights, rows, kind) for kind in Curvature),
        risk.curvature(weights, Curvature.GGN, budget=2**24).products(rows),
    ]


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_what_plain_tensors_give(name: str) -> None:
    loss = nn.functional.cross_entropy
    expected = results(*risk_of(OwnTask(net, loss, tensors)))
    task = OwnTask(net, loss, FORMS[name])
    risk, weights = risk_of(task)
    for one, other in zip(results(risk, weights), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    examples = task.data(0)
    labels = examples.labels
    assert labels is not None
    assert torch.equal(labels, tensors()[1])
    assert len({*examples.record_bytes()}) == COUNT
    some = examples.at(torch.tensor([5, 3]))
    assert list(some.record_bytes()) == [list(examples.record_bytes())[place] for place in (5, 3)]
    assert torch.equal(some.labels, tensors()[1][[5, 3]])  # type: ignore[arg-type]
    assert not examples.augmented


def test_what_is_held_out_and_the_batch_size_are_taken_over() -> None:
    held_out = tuple(one[:5] for one in tensors())
    found = own_data((DataLoader(named(), batch_size=9), held_out))
    assert found.batch_size == 9
    assert isinstance(found.held_out, TensorExamples)
    assert len(found.held_out) == 5
    both = own_data((tensors(), held_out))
    assert len(both.train) == COUNT
    assert both.held_out is not None
    assert len(both.held_out) == 5
    assert own_data(tensors()).held_out is None
    task = OwnTask(net, nn.CrossEntropyLoss(), lambda: (named(), named()))
    whole = task.held_out(0)
    assert whole is not None
    assert torch.equal(whole.batch(torch.arange(3))[1], tensors()[1][:3])


def test_pairs_of_tensors_are_committed_to_as_tensors_are() -> None:
    as_tensors = list(own_data(tensors()).train.record_bytes())
    assert list(own_data(Items(lambda x, y: (x, y))).train.record_bytes()) == as_tensors


REFUSED: dict[str, tuple[Callable[[], object], type[FedunlearnError], str]] = {
    "a stream": (Stream, TaskError, "iterated over.*no places.*Subset"),
    "a loader over a stream": (lambda: DataLoader(Stream()), TaskError, "iterated over.*no places"),
    "a generator": (lambda: iter(named()), TaskError, "iterated over"),
    "a part": (
        lambda: DataLoader(named(), sampler=SubsetRandomSampler(range(9))),
        TaskError,
        r"picks 9 of the 23 examples.*Subset\(dataset, indices\)",
    ),
    "a random part": (
        lambda: DataLoader(named(), sampler=RandomSampler(named(), num_samples=8)),
        TaskError,
        "picks 8 of the 23",
    ),
    "a part by weights": (
        lambda: DataLoader(named(), sampler=WeightedRandomSampler([1.0, 0.0, 1.0] * 7, 9)),
        TaskError,
        "picks 14 of the 23",
    ),
    "a part in batches": (
        lambda: DataLoader(named(), batch_sampler=[[0, 1], [2]]),
        TaskError,
        "picks 3 of the 23",
    ),
    "no batches": (lambda: DataLoader(named(), batch_size=None), TaskError, "batch_size=None"),
    "three": (lambda: (named(), named(), named()), TaskError, "a tuple of 3 is returned; return a"),
    "a tensor": (lambda: tensors()[0], TaskError, "Tensor is returned; return a DataLoader"),
    "a number": (lambda: 3, TaskError, "int is returned"),
    "a dictionary": (lambda: {"x": 1}, TaskError, "without datasets under 'train'"),
    "text": (lambda: ("a", "b"), TaskError, "tuple is returned"),
    "texts": (lambda: (np.array(["a"]), np.array([1])), TaskError, "array of <U1"),
    "fewer targets": (lambda: (tensors()[0], tensors()[1][1:]), TaskError, "23 inputs but 22"),
    "lengths": (
        lambda: Items(lambda x, y: (x[: 1 + int(y)], y)),
        TaskError,
        "different lengths or shapes.*collate_fn that pads",
    ),
    "lists of lengths": (
        lambda: Items(lambda x, y: {"input_ids": [1] * (1 + int(y)), "label": 1}),
        TaskError,
        "different lengths or shapes.*DataCollatorWithPadding",
    ),
    "objects": (
        lambda: Items(lambda x, y: (Stream(), y)),
        TaskError,
        "items hold Stream, (which cannot be stacked|of which there are no bytes)",
    ),
    "fails": (
        lambda: Items(lambda x, y: {}["patient 4711"]),
        OwnCodeError,
        "KeyError in the task's own code: __getitem__ of the dataset",
    ),
    "a collate that fails": (
        lambda: DataLoader(named(), collate_fn=lambda items: {}["patient 4711"]),
        OwnCodeError,
        "KeyError in the task's own code: collate_fn",
    ),
    "a collate that draws": (
        lambda: DataLoader(
            Items(lambda x, y: (x, y)),
            collate_fn=lambda items: {k: v * torch.rand(1) for k, v in as_dict(items).items()},
        ),
        NotDeterministicError,
        "collate_fn gives other batches",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_each_refusal_is_one_line(name: str) -> None:
    make, error, says = REFUSED[name]
    with pytest.raises(FedunlearnError, match=says) as refusal:
        task = OwnTask(net, nn.functional.cross_entropy, make)
        task.data(0)
        task.model()
    assert isinstance(refusal.value, error)
    assert "\n" not in str(refusal.value)
    assert "4711" not in str(refusal.value)


DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch": lambda x: x + torch.rand(1, dtype=x.dtype),
    "NumPy": lambda x: x + np.random.rand(),
    "random": lambda x: x * random.choice([-1.0, 1.0]),
    "now and then": lambda x: x.flip(0) if torch.rand(()) < 0.02 else x,
}


@pytest.mark.parametrize("name", DRAWS)
def test_augmentation_is_fixed_to_one_draw(name: str) -> None:
    def data() -> Items:
        return Items(lambda x, y: (DRAWS[name](x), y))

    task = OwnTask(net, nn.functional.cross_entropy, data)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index,union-attr]
    examples: Examples = task.data(0)
    first = examples.batch(torch.arange(COUNT))
    assert examples.augmented
    assert torch.equal(examples.batch(torch.arange(COUNT))[0], first[0])
    assert torch.equal(examples.batch(torch.tensor([7, 2]))[0], first[0][[7, 2]])
    assert torch.equal(
        examples.at(torch.tensor([9])).held().batch(torch.arange(1))[0], first[0][9:10]
    )
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[index,union-attr]
    assert random.getstate() == states[2]
    assert len({*examples.record_bytes()}) == COUNT
    risk, weights = risk_of(task)
    assert torch.equal(risk.gradient(weights), risk.gradient(weights))


def test_items_that_differ_under_one_seed_are_refused() -> None:
    generator = np.random.default_rng(0)
    with pytest.raises(NotDeterministicError, match="differs when it is read again"):
        own_data(Items(lambda x, y: (x + generator.random(), y)))


def test_a_question_reads_every_item_a_few_times_only() -> None:
    dataset = named()
    task = OwnTask(net, nn.functional.cross_entropy, lambda: dataset)
    risk, weights = risk_of(task)
    dataset.reads = 0
    risk.gradient(weights)
    assert dataset.reads == COUNT


def test_what_a_model_draws_does_not_depend_on_when_the_data_are_read() -> None:
    def data() -> tuple[Tensor, Tensor]:
        torch.rand(5)
        return tensors()

    task = OwnTask(net, nn.functional.cross_entropy, data)
    built = []
    for _ in range(2):
        torch.manual_seed(8)
        built.append(flatten(task.model()))
    assert torch.equal(*built)
