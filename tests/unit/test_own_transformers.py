"""Models of transformers and PEFT, with random weights, as their users call them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from fedunlearn.errors import NoCurvatureError
from fedunlearn.node.node import TaskNode
from fedunlearn.node.own_task import OwnTask
from fedunlearn.parameters import flatten
from fedunlearn.risk.objective import EmpiricalRisk
from fedunlearn.risk.products import Curvature

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

# PEFT on the newest transformers.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
    pytest.mark.slow,
]

COUNT, WORDS = 14, 30


def items() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(3, 9, (COUNT,), generator=generator).tolist()
    return [
        {"input_ids": torch.randint(1, WORDS, (n,), generator=generator), "label": n % 3}
        for n in lengths
    ]


def pad(some: list[dict[str, Any]]) -> dict[str, Tensor]:
    ids = nn.utils.rnn.pad_sequence([one["input_ids"] for one in some], batch_first=True)
    labels = torch.tensor([one["label"] for one in some])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


def loader() -> DataLoader[Any]:
    return DataLoader(items(), batch_size=5, shuffle=True, collate_fn=pad)  # type: ignore[arg-type]


def bert() -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=WORDS,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=20,
        max_position_embeddings=16,
        num_labels=3,
    )
    model: nn.Module = transformers.BertForSequenceClassification(config)
    return model


def distilbert() -> nn.Module:
    config = transformers.DistilBertConfig(
        vocab_size=WORDS,
        dim=16,
        n_layers=1,
        n_heads=2,
        hidden_dim=20,
        max_position_embeddings=16,
        num_labels=3,
    )
    model: nn.Module = transformers.DistilBertForSequenceClassification(config)
    return model


def with_adapters(
    base: Callable[[], nn.Module], targets: list[str], dtype: torch.dtype
) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        torch.manual_seed(11)  # the frozen base is one network everywhere
        config = peft.LoraConfig(
            task_type="SEQ_CLS", r=2, lora_alpha=4, lora_dropout=0.1, target_modules=targets
        )
        model: nn.Module = peft.get_peft_model(base().to(dtype), config)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()
            if "lora_B" in name:  # which starts at zero, where half of the derivatives vanish
                nn.init.normal_(parameter, std=0.1)
        return model

    return make


ADAPTED = {
    "BERT": (bert, ["query", "value"]),
    "DistilBERT": (distilbert, ["q_lin", "v_lin"]),
}
LOSSES: dict[str, Any] = {
    "of logits": cross_entropy,
    "that reads logits": lambda outputs, batch: cross_entropy(outputs.logits, batch["labels"]),
    "of the model": None,
}


def results(task: OwnTask, model: nn.Module, weights: Tensor) -> list[Tensor]:
    risk = EmpiricalRisk(model, task.loss, task.data(0), chunk=5)
    rows = torch.randn(
        2, len(weights), generator=torch.Generator().manual_seed(1), dtype=torch.float64
    ).to(weights)
    return [risk.gradient(weights), *(risk.products(weights, rows, kind) for kind in Curvature)]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ADAPTED)
def test_adapters_on_a_frozen_base_are_differentiated(
    name: str, dtype: torch.dtype, loss: str
) -> None:
    base, targets = ADAPTED[name]
    task = OwnTask(with_adapters(base, targets, dtype), LOSSES[loss], loader)
    model = task.model()
    assert isinstance(model, peft.PeftModel)
    weights = flatten(model)
    assert 0 < len(weights) < 500
    found = results(task, model, weights)
    assert all(one.isfinite().all() and one.any() for one in found)
    if dtype is torch.float32:
        exact = results(task, task.model().double(), weights.double())
        for one, other in zip(found, exact, strict=True):
            assert float((one - other).norm() / other.norm()) < 1e-5


def test_a_whole_transformer_gives_what_a_float64_reference_gives() -> None:
    task = OwnTask(bert, cross_entropy, loader)
    torch.manual_seed(0)
    model = task.model()
    weights = flatten(model)
    found = results(task, model, weights)
    model = model.double()
    weights = weights.double()
    exact = results(task, model, weights)
    for one, other in zip(found, exact, strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-4


def test_a_loss_that_reads_the_models_own_is_computed_with_it() -> None:
    task = OwnTask(
        bert,
        lambda outputs, batch: outputs.loss,
        loader,
        forward=lambda model, batch: model(**batch),
    )
    plain = OwnTask(bert, cross_entropy, loader)
    torch.manual_seed(0)
    model = task.model().double()
    risk = EmpiricalRisk(model, task.loss, task.data(0), chunk=5)
    torch.manual_seed(0)
    other = EmpiricalRisk(plain.model().double(), plain.loss, plain.data(0), chunk=5)
    weights = flatten(model)
    row = weights[None].cos()
    torch.testing.assert_close(risk.gradient(weights), other.gradient(weights))
    torch.testing.assert_close(
        risk.products(weights, row, Curvature.HESSIAN),
        other.products(weights, row, Curvature.HESSIAN),
    )
    with pytest.raises(NoCurvatureError, match="let the loss take the logits alone"):
        risk.products(weights, row, Curvature.GGN)


def test_a_node_enrols_with_adapters() -> None:
    base, targets = ADAPTED["BERT"]
    task = OwnTask(with_adapters(base, targets, torch.bfloat16), cross_entropy, loader)
    assert TaskNode(task, 0).enrol().examples == COUNT
