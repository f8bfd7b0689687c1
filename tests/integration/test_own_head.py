"""Exact removal from the head of a user's own Flower app, however it was trained."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Context, RecordDict
from flwr.serverapp.strategy import FedAvg
from torch import Tensor, nn

from fedunlearn import ExactHead
from fedunlearn.errors import FedunlearnError
from fedunlearn.flower import unlearning
from tests.inline_grid import InlineGrid
from tests.own_app import CLASSES, EACH, NODES, Net, OwnApp, Rows

CONTEXT = Context(1, 0, {}, RecordDict(), {})
DECAY = 1e-2
REQUESTS: dict[str, dict[str, Any]] = {
    "node": {"nodes": [2]},
    "records": {"records": {1: [0, 3, 39], 2: [5]}},
    "class": {"classes": [1]},
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


class Headed(nn.Module):
    """A frozen encoder with normalisation and dropout, as users write them, and a head."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.encoder = nn.Sequential(
                nn.Linear(2, 16), nn.BatchNorm1d(16, momentum=0.0), nn.Tanh(), nn.Dropout(0.1)
            )
        self.encoder.requires_grad_(False)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.encoder(inputs))
        return outputs


def gone(request: dict[str, Any], node: int, labels: Tensor) -> Tensor:
    left = torch.zeros(EACH, dtype=torch.bool)
    if node in request.get("nodes", ()):
        left[:] = True
    left[request.get("records", {}).get(node, [])] = True
    for label in request.get("classes", ()):
        left |= labels == label
    return left


def minimiser(request: dict[str, Any], arrays: ArrayRecord) -> Tensor:
    """Fit the logistic head by L-BFGS on what stays, apart from the code under test."""
    model = Headed().double().eval()
    model.load_state_dict(arrays.to_torch_state_dict())
    inputs, targets = [], []
    for node in range(NODES):
        rows = Rows(node)
        stays = ~gone(request, node, rows.targets)
        inputs.append(rows.inputs[stays].double())
        targets.append(rows.targets[stays])
    features, labels = model.encoder(torch.cat(inputs)), torch.cat(targets)
    head = list(model.head.parameters())
    optimizer = torch.optim.LBFGS(
        head, max_iter=500, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model.head(features), labels)
        total: Tensor = loss + DECAY / 2 * sum(p.square().sum() for p in head)
        total.backward()
        return total

    optimizer.step(closure)
    return torch.cat([p.detach().reshape(-1) for p in head])


@pytest.mark.parametrize("name", REQUESTS)
def test_the_head_is_that_of_training_on_what_stays(name: str) -> None:
    app = OwnApp(model=Headed, held_out=False)
    grid = InlineGrid(app.app, NODES)
    result = FedAvg(fraction_evaluate=0.0).start(
        grid, initial_arrays=ArrayRecord(Headed().state_dict()), num_rounds=2, timeout=60.0
    )
    method = ExactHead(solver="logistic", weight_decay=DECAY)
    with unlearning(grid, CONTEXT, model=Headed, trained=result.arrays) as removal:
        arrays = removal.forget(**REQUESTS[name], method=method)
    found = arrays.to_torch_state_dict()
    head = torch.cat([found["head.weight"].reshape(-1), found["head.bias"]]).double()
    wanted = minimiser(REQUESTS[name], arrays)
    assert float((head - wanted).norm() / wanted.norm()) < 1e-6
    assert removal.result.claim == "EXACT"
    assert "minimiser (logistic) on what stays" in removal.result.status


def test_misuse_is_refused_in_one_line() -> None:
    app = OwnApp(model=Headed, held_out=False)
    grid = InlineGrid(app.app, NODES)
    arrays = ArrayRecord(Headed().state_dict())
    whole = OwnApp(held_out=False)
    cases = (
        (grid, Headed, arrays, ExactHead(solver="logistic"), "weight-decay must be greater"),
        (grid, Headed, arrays, ExactHead(solver="ridge"), "not a multiple of the squared loss"),
        (grid, Headed, arrays, ExactHead(), "needs what is recorded when training ends"),
        (
            InlineGrid(whole.app, NODES),
            Net,
            ArrayRecord(Net().state_dict()),
            ExactHead(solver="logistic", weight_decay=DECAY),
            "needs a model that trains one nn.Linear",
        ),
    )
    for reach, model, trained, method, says in cases:
        with (
            unlearning(reach, CONTEXT, model=model, trained=trained) as removal,
            pytest.raises(FedunlearnError, match=says) as caught,
        ):
            removal.forget(nodes=[1], method=method)
        assert "\n" not in str(caught.value)
