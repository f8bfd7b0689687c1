"""Attention, checkpointing and functions of one's own, from training to a removal."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fedunlearn import CubicNewton, ForgetSet, TrainingSettings, flatten, simulate
from fedunlearn.federation.federation import Federation
from fedunlearn.networks import build_model
from tests.federations import TinyTask
from tests.model_compositions import Square

NODES = 3
SETTINGS = TrainingSettings(rounds=3, learning_rate=0.2)


class Net(nn.Module):
    """The same function in two forms: as others write it, and of torch's plainest operations."""

    def __init__(self, kind: str, *, plain: bool) -> None:
        super().__init__()
        self.kind, self.plain = kind, plain
        self.first, self.head = nn.Linear(2, 12), nn.Linear(4, 3)

    def hidden(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = torch.tanh(self.first(inputs))
        return outputs

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.mixed(inputs))
        return outputs

    def mixed(self, inputs: Tensor) -> Tensor:
        if self.kind == "attention":
            queries, keys, values = self.hidden(inputs).reshape(-1, 3, 2, 2).unbind(1)
            if self.plain:
                weights = (queries @ keys.mT / math.sqrt(2.0)).softmax(-1)
                return (weights @ values).flatten(1)
            attend = nn.functional.scaled_dot_product_attention
            return attend(queries, keys, values).flatten(1)
        if self.kind == "checkpointed":
            if self.plain:
                return self.hidden(inputs)[:, :4]
            again = checkpoint(self.hidden, inputs, use_reentrant=False)
            assert isinstance(again, Tensor)
            return again[:, :4]
        chosen = self.hidden(inputs)[:, :4]
        if self.plain:
            return chosen * chosen
        squared: Tensor = Square.apply(chosen)
        return squared


class OwnTask(TinyTask):
    def __init__(self, kind: str, *, plain: bool) -> None:
        super().__init__()
        self.kind, self.plain = kind, plain

    def model(self) -> nn.Module:
        return Net(self.kind, plain=self.plain).double()


@pytest.mark.parametrize("curvature", ["ggn", "hessian-abs"])
@pytest.mark.parametrize("kind", ["attention", "checkpointed", "function"])
def test_a_removal_is_that_of_the_same_function_in_plain_operations(
    kind: str, curvature: str
) -> None:
    ends = []
    for plain in (False, True):
        task = OwnTask(kind, plain=plain)
        start = flatten(build_model(task.model))
        method = CubicNewton(curvature=curvature, products=4, weight=0.1)

        def body(
            federation: Federation, start: Tensor = start, method: CubicNewton = method
        ) -> tuple[Tensor, Tensor]:
            trained = federation.fit(start, SETTINGS)
            return trained.weights, method.unlearn(
                trained, federation, ForgetSet.of_nodes(1)
            ).weights

        ends.append(simulate(task, NODES, body))
    (trained, removed), (same, expected) = ends
    torch.testing.assert_close(trained, same, rtol=1e-10, atol=1e-12)
    assert float((removed - trained).norm()) > 1e-3
    torch.testing.assert_close(removed, expected, rtol=1e-7, atol=1e-9)
