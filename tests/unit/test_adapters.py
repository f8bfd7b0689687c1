"""Low-rank adapters beside the linear layers of any network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedunlearn.errors import TaskError
from fedunlearn.models.adapters import LowRankAdapter, add_adapters
from fedunlearn.parameters import flatten, load, trainable
from fedunlearn.risk.local_training import LocalPlan, train_locally


def network() -> nn.Sequential:
    torch.manual_seed(3)
    inner = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4, bias=False))
    return nn.Sequential(nn.Embedding(9, 6), nn.LayerNorm(6), inner, nn.Flatten())


INPUTS = torch.arange(8).reshape(4, 2)


def test_at_first_nothing_changes_and_only_adapters_train() -> None:
    plain, adapted = network(), add_adapters(network(), 2)
    torch.testing.assert_close(adapted(INPUTS), plain(INPUTS))
    assert list(trainable(adapted)) == ["2.0.down", "2.0.up", "2.2.down", "2.2.up"]
    assert len(flatten(adapted)) == 2 * (6 + 5) + 2 * (5 + 4)


def test_an_adapter_adds_a_map_of_its_rank() -> None:
    base = nn.Linear(7, 5)
    adapter = LowRankAdapter(base, 2)
    assert isinstance(add_adapters(nn.Linear(7, 5), 2), LowRankAdapter)
    assert list(trainable(adapter)) == ["down", "up"]
    with torch.no_grad():
        adapter.up.normal_()
        change = adapter(torch.eye(7)) - base(torch.eye(7))
        torch.testing.assert_close(change, (adapter.up @ adapter.down).T, rtol=1e-4, atol=1e-5)
    assert torch.linalg.matrix_rank(change, rtol=1e-4) == 2


def test_training_changes_the_adapters_alone() -> None:
    model = nn.Sequential(add_adapters(network(), 2), nn.Linear(8, 3))
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    start = flatten(model)
    plan = LocalPlan(epochs=3, batch_size=2, learning_rate=0.5, weight_decay=0.0, order=(0,))
    examples = (INPUTS, torch.tensor([0, 1, 2, 1]))
    end = train_locally(model, nn.functional.cross_entropy, examples, start, plan)
    load(model, end)
    assert len(frozen) == 6
    for name, before in frozen.items():
        assert torch.equal(model.get_parameter(name), before), name
    for name, parameter in trainable(model).items():
        if name.endswith("up"):
            assert parameter.abs().max() > 0.0, name


def test_a_layer_in_two_places_keeps_one_adapter() -> None:
    shared = nn.Linear(4, 4)
    model = add_adapters(nn.Sequential(shared, nn.Tanh(), nn.Sequential(shared)), 1)
    assert len(flatten(model)) == 8
    assert model.get_submodule("0") is model.get_submodule("2.0")


class _Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2)


@pytest.mark.parametrize(
    ("make", "rank", "says"),
    [
        (lambda: nn.Linear(3, 8), 4, "rank 4 do not fit a layer of 3 inputs and 8 outputs"),
        (network, 0, "use a rank from 1"),
        (lambda: nn.Sequential(nn.Conv2d(1, 1, 3)), 1, "has no nn.Linear"),
        (_Attending, 1, "'attention' (MultiheadAttention) takes its weights past its linear"),
    ],
)
def test_what_has_no_place_for_adapters_is_refused(make: object, rank: int, says: str) -> None:
    assert callable(make)
    with pytest.raises(TaskError) as caught:
        add_adapters(make(), rank)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
