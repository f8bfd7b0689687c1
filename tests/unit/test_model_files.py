"""A model file is the whole model: what is trained, what is frozen, and buffers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from fedunlearn.errors import InputError, VerificationError
from fedunlearn.model_state import ModelState
from fedunlearn.operator.model_store import model_file, read_model, read_state
from fedunlearn.parameters import ParameterLayout, flatten


class _Parts(nn.Module):
    """Something of every kind."""

    def __init__(self, level: float = 1.0, *, unsaved: float = 0.0) -> None:
        super().__init__()
        self.frozen = nn.Linear(3, 4).requires_grad_(False)
        nn.init.constant_(self.frozen.weight, level)
        nn.init.zeros_(self.frozen.bias)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 2)
        self.again = nn.Linear(4, 2)
        self.again.weight = self.head.weight
        self.register_buffer("unsaved", torch.full((2,), unsaved), persistent=False)
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm(self.frozen(inputs))
        outputs: Tensor = self.head(hidden) + self.again(hidden)
        return outputs


def test_a_file_gives_the_whole_network_back() -> None:
    model = _Parts()
    weights = flatten(model) + 0.1
    content = model_file(model, weights)
    assert content == model_file(_Parts(), weights)
    found = safetensors.torch.load(content)
    assert set(found) | {"again.weight"} == set(model.state_dict())  # that is head.weight
    assert torch.equal(read_model(_Parts(), content), weights)

    plain = _Parts(level=7.0)
    plain.load_state_dict(found, strict=False)
    for name, value in plain.state_dict().items():
        expected = found["head.weight" if name == "again.weight" else name]
        assert torch.equal(value, expected), name


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda m: m.frozen.bias, "frozen.bias"),
        (lambda m: m.norm.running_var, "norm.running_var"),
        (lambda m: m.norm.num_batches_tracked, "norm.num_batches_tracked"),
    ],
)
def test_a_file_with_another_fixed_part_is_refused_by_its_name(
    change: Callable[[_Parts], Tensor], name: str
) -> None:
    model = _Parts()
    content = model_file(model, flatten(model))
    other = _Parts()
    with torch.no_grad():
        change(other).add_(1)
    with pytest.raises(VerificationError, match=f"another '{name}' than this scenario's model"):
        read_model(other, content)
    assert model_file(other, flatten(model)) != content


def test_trained_values_of_other_tensors_are_written_and_read_back() -> None:
    model = _Parts()
    weights = flatten(model) + 0.1
    state = ModelState(
        {"norm.running_mean": torch.full((4,), 3.0), "norm.num_batches_tracked": torch.tensor(9)}
    )
    content = model_file(model, weights, state)
    assert torch.equal(read_model(_Parts(), content), weights)
    assert read_state(content) == state
    assert {model_file(_Parts(), weights, state) for _ in range(20)} == {content}
    found = safetensors.torch.load(content)
    plain = _Parts()
    plain.load_state_dict(found, strict=False)  # as a user does, with nothing of ours
    assert torch.equal(plain.norm.running_mean, state["norm.running_mean"])
    assert plain.norm.num_batches_tracked == 9
    assert found["norm.num_batches_tracked"].dtype == torch.int64

    assert content != model_file(model, weights)
    assert not read_state(model_file(model, weights))
    assert model_file(model, weights, {}) == model_file(model, weights)
    other = _Parts()
    other.norm.running_var.add_(1)
    with pytest.raises(VerificationError, match=r"another 'norm\.running_var' than"):
        read_model(other, content)


@pytest.mark.parametrize(
    "state", [{"norm.other": torch.zeros(4)}, {"norm.running_mean": torch.zeros(5)}], ids=str
)
def test_a_state_of_another_model_is_not_written(state: dict[str, Tensor]) -> None:
    with pytest.raises(InputError, match=f"no tensor '{next(iter(state))}' of this shape"):
        model_file(_Parts(), flatten(_Parts()), state)


def test_the_digest_covers_what_no_tensor_shows() -> None:
    model = _Parts()
    weights = flatten(model)
    assert model_file(model, weights) != model_file(_Parts(unsaved=1.0), weights)
    wider = _Parts()
    wider.norm.eps = 1e-3
    assert model_file(model, weights) != model_file(wider, weights)


def test_files_of_an_earlier_version_are_read() -> None:
    model = _Parts()
    weights = flatten(model) - 0.3
    parts = ParameterLayout.of(model).unflatten(weights)
    old = safetensors.torch.save({name: part.contiguous() for name, part in parts.items()})
    assert torch.equal(read_model(model, old), weights)
    layouts = safetensors.torch.load(model_file(model, weights))
    assert {name: layouts[name].shape for name in parts} == {n: p.shape for n, p in parts.items()}


def test_a_file_of_another_model_is_refused() -> None:
    content = model_file(nn.Linear(2, 2), torch.zeros(6))
    with pytest.raises(VerificationError, match="does not contain this scenario's model"):
        read_model(_Parts(), content)
