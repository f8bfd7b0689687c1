"""Batches and models of a user that are refused, padded or reconstructed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

from fedunlearn.errors import FedunlearnError, TaskError
from fedunlearn.node.own_task import OwnTask
from fedunlearn.parameters import flatten
from fedunlearn.risk.objective import EmpiricalRisk
from fedunlearn.risk.products import Curvature
from tests.unit.test_own_model import (
    COUNT,
    HALVES,
    IMAGES,
    Case,
    Found,
    Net,
    Returning,
    risk_of,
    rows,
    task_of,
    tensors,
)

pytestmark = pytest.mark.slow

REFUSED: dict[str, tuple[Case, str]] = {
    "a sum": (Case(Net, nn.CrossEntropyLoss(reduction="sum"), IMAGES), "not the mean over exam"),
    "class weights": (
        Case(Net, nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 5.0]).double()), IMAGES),
        "class weights",
    ),
    "none reduced": (
        Case(Net, nn.CrossEntropyLoss(reduction="none"), IMAGES),
        "returns shape|reduction='mean'",
    ),
    "two keys": (
        Case(Net, cross_entropy, HALVES),
        r"forward\(\) takes x, and batches have the keys 'left', 'right', 'label'; say how it is "
        "called by forward=lambda model, batch",
    ),
    "text": (
        Case(Net, cross_entropy, rows(lambda x, y: {"text": "a word", "label": y})),
        "keys 'text', 'label' and no tensors beside the target; .* of text by a tokenizer",
    ),
    "two labels": (
        Case(Net, cross_entropy, rows(lambda x, y: {"x": x, "a_label": y, "b_label": y})),
        "several may be the target; name it by label=",
    ),
    "no such label": (
        Case(Net, cross_entropy, IMAGES, {"label": "kind"}),
        "no key 'kind', which label= names, but 'img', 'label'",
    ),
    "no loss": (Case(Net, None, IMAGES), "loss: none is given"),
    "no loss of its own": (
        Case(
            lambda: Returning(lambda o: Found(logits=o)),
            None,
            IMAGES,
            {"forward": lambda model, batch: model(batch["img"])},
        ),
        "the model returns none; pass loss=",
    ),
    "no model": (Case(lambda: 3, cross_entropy, IMAGES), "model\\(\\) returns int"),  # type: ignore[arg-type,return-value]
}


@pytest.mark.parametrize("name", REFUSED)
def test_each_refusal_is_one_line(name: str) -> None:
    case, says = REFUSED[name]
    with pytest.raises(FedunlearnError, match=says) as refusal:
        risk_of(task_of(case))
    assert isinstance(refusal.value, TaskError)
    assert "\n" not in str(refusal.value)


class Padded(nn.Module):
    """Mean of embeddings where the mask says so."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.last = nn.Embedding(9, 4).double(), nn.Linear(4, 3).double()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        weights = attention_mask.double()[..., None]
        means = (self.embedding(input_ids) * weights).sum(1) / weights.sum(1)
        scores: Tensor = self.last(torch.tanh(means))
        return scores


def sentences() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(2, 12, (COUNT,), generator=generator).tolist()
    return [
        {
            "input_ids": torch.randint(9, (length,), generator=generator).tolist(),
            "label": length % 3,
        }
        for length in lengths
    ]


def pad(items: list[dict[str, Any]]) -> dict[str, Tensor]:
    longest = max(len(item["input_ids"]) for item in items)
    ids, mask = torch.zeros(2, len(items), longest, dtype=torch.int64)
    for row, item in enumerate(items):
        count = len(item["input_ids"])
        ids[row, :count] = torch.tensor(item["input_ids"])
        mask[row, :count] = 1
    labels = torch.tensor([item["label"] for item in items])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("alone", [True, False])
def test_inputs_without_targets_are_reconstructed(alone: bool) -> None:
    """An autoencoder: the loss compares the outputs with the batch."""
    inputs = tensors()[0]
    data = list(inputs) if alone else TensorDataset(inputs)

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        return mse_loss(outputs, batch if alone else batch[0])

    task = OwnTask(lambda: Net(4), loss, lambda: data)
    risk, weights = risk_of(task)
    plain = OwnTask(lambda: Net(4), mse_loss, lambda: (inputs, inputs))
    other, _ = risk_of(plain)
    torch.testing.assert_close(risk.gradient(weights), other.gradient(weights))
    row = weights[None].cos()
    torch.testing.assert_close(
        risk.products(weights, row, Curvature.GGN), other.products(weights, row, Curvature.GGN)
    )
    assert task.data(0).labels is None


def test_padded_batches_by_length_agree_with_one_by_one() -> None:
    task = OwnTask(Padded, cross_entropy, lambda: DataLoader(sentences(), 4, collate_fn=pad))
    examples = task.data(0)
    chunks = examples.chunks(5)
    assert sorted(torch.cat(chunks).tolist()) == list(range(COUNT))
    lengths = [len(item["input_ids"]) for item in sentences()]
    ordered = [lengths[place] for chunk in chunks for place in chunk.tolist()]
    assert ordered == sorted(lengths)
    torch.manual_seed(0)
    model = task.model()
    weights = flatten(model)
    together = EmpiricalRisk(model, task.loss, examples, chunk=5)
    alone = [EmpiricalRisk(model, task.loss, examples.at(torch.tensor([i]))) for i in range(COUNT)]
    vectors = weights[None].cos()
    torch.testing.assert_close(
        together.gradient(weights), torch.stack([one.gradient(weights) for one in alone]).sum(0)
    )
    for kind in Curvature:
        torch.testing.assert_close(
            together.products(weights, vectors, kind),
            torch.stack([one.products(weights, vectors, kind) for one in alone]).sum(0),
        )
    assert examples.labels is not None
    assert examples.labels.tolist() == [item["label"] for item in sentences()]
