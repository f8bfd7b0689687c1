"""What a node checks of its data, and of its network against the server's, when it enrols."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedunlearn import TrainingSettings, initial_weights, load, simulate
from fedunlearn.errors import (
    EmptyNodeError,
    FedunlearnError,
    ModelDiffersError,
    NodeFailedError,
    NonFiniteError,
    NotDeterministicError,
    TaskError,
)
from fedunlearn.federation.accounting import MeterStack
from fedunlearn.flower.client_app import app_of
from fedunlearn.flower.messages import enrol
from fedunlearn.flower.metered_grid import MeteredGrid
from fedunlearn.networks import NetworkDigest, build_model
from fedunlearn.node.enrolment import Enrolment, require_same_network
from fedunlearn.node.node import TaskNode
from fedunlearn.parameters import flatten
from fedunlearn.risk.objective import EmpiricalRisk
from fedunlearn.risk.products import Curvature
from fedunlearn.risk.task import Examples
from fedunlearn.unlearning.fine_tune import FineTune
from fedunlearn.unlearning.rewind import Rewind
from tests.federations import BrokenTask, TinyTask
from tests.inline_grid import InlineGrid
from tests.unit.test_enrolment_checks import (
    NODES,
    Forces,
    OfFunctions,
    Shrunk,
    With,
    forked,
    net,
    no_body,
    of_numpy,
    of_python,
    seeded,
)

pytestmark = pytest.mark.slow

DATA: dict[str, tuple[Callable[[Examples], Any], type[FedunlearnError], str]] = {
    "NumPy": (
        lambda e: (e[0].numpy(), e[1]),
        TaskError,
        "inputs are numpy.ndarray, not a torch.Tensor; return torch.from_numpy",
    ),
    "NumPy targets": (lambda e: (e[0], e[1].numpy()), TaskError, "targets are numpy.ndarray"),
    "lists": (lambda e: (e[0].tolist(), e[1]), TaskError, "inputs are list, not a torch.Tensor"),
    "three": (lambda e: (*e, e[1]), TaskError, "a tuple of 3; return inputs and targets"),
    "a dictionary": (lambda e: {"x": e[0]}, TaskError, "returns dict; return inputs and targets"),
    "one number": (lambda e: (e[0], torch.tensor(1)), TaskError, "targets are one number"),
    "sparse": (lambda e: (e[0].to_sparse(), e[1]), TaskError, "to_dense"),
    "with a graph": (lambda e: (e[0].requires_grad_(), e[1]), TaskError, "return detach"),
    "float64": (lambda e: (e[0].double(), e[1]), TaskError, r"inputs.to\(torch.float32\)"),
    "real labels": (lambda e: (e[0], e[1].float()), TaskError, r"targets.long\(\)"),
    "not a number": (lambda e: (e[0] / 0.0 * 0.0, e[1]), NonFiniteError, "data: inputs"),
    "fewer targets": (lambda e: (e[0], e[1][1:]), TaskError, "give one target an input"),
    "noise": (
        lambda e: (e[0] + 1e-6 * torch.randn_like(e[0]), e[1]),
        NotDeterministicError,
        "other examples when it is read again",
    ),
    "noise of NumPy": (
        lambda e: (e[0] * (1.0 + np.random.rand()), e[1]),
        NotDeterministicError,
        "other examples when it is read again",
    ),
    "another order": (
        lambda e: tuple(part[torch.randperm(len(part))] for part in e),
        NotDeterministicError,
        "other examples when it is read again",
    ),
    "one flip in a while": (
        lambda e: (e[0] * (1.0 if random.random() < 0.5 else -1.0), e[1]),
        NotDeterministicError,
        "other examples when it is read again",
    ),
    "out of range": (lambda e: (e[0], e[1] + 7), NodeFailedError, "loss: on inputs of shape"),
    "fails": (lambda e: {}["patient 4711"], NodeFailedError, "KeyError.*own code: data"),
}


@pytest.mark.parametrize(("change", "error", "says"), DATA.values(), ids=DATA)
def test_data_that_cannot_be_used_are_refused_before_training(
    change: Callable[[Examples], Any], error: type[FedunlearnError], says: str
) -> None:
    for _ in range(10 if "flip" in says or error is NotDeterministicError else 1):
        with pytest.raises(FedunlearnError, match=says) as refusal:
            simulate(With(data=change), NODES, no_body)
        assert type(refusal.value) is error
        assert "4711" not in str(refusal.value)


def test_data_that_go_through_a_loader_or_seed_themselves_pass() -> None:
    def loaded(examples: Examples) -> Examples:
        loader = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(*examples), batch_size=5
        )
        inputs, targets = zip(*loader, strict=True)
        return torch.cat(inputs), torch.cat(targets)

    def own_seed(examples: Examples) -> Examples:
        torch.manual_seed(3)
        return examples[0] + 0.1 * torch.randn_like(examples[0]), examples[1]

    for change in (loaded, own_seed):
        assert simulate(With(data=change), NODES, lambda federation: len(federation.nodes)) == NODES


@pytest.mark.parametrize("make", [OfFunctions, lambda: Forces(enabled=True)])
def test_models_that_differentiate_inside_are_differentiated_right(
    make: Callable[[], nn.Module],
) -> None:
    """Not by a sum of squares of what could not be watched: chunks are small, nothing is kept."""
    model = build_model(net(make)).double()
    examples = TinyTask().data(2)
    risk = EmpiricalRisk(model, TinyTask.loss, examples, chunk=5)
    risk.require_differentiable()
    weights = flatten(model)
    row = torch.ones(1, len(weights), dtype=torch.float64) / 7.0
    step = 1e-5
    ahead, behind = (risk.gradient(weights + sign * step * row[0]) for sign in (1.0, -1.0))
    for budget in (0, 2**30):
        product = risk.curvature(weights, Curvature.HESSIAN, budget=budget).products(row)[0]
        torch.testing.assert_close(product, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("draw", [seeded, forked])
@pytest.mark.parametrize("how", ["buffer", "buffer that is not saved", "frozen", "attribute"])
def test_fixed_parts_with_a_seed_of_their_own_are_the_same_network_everywhere(
    how: str, draw: Callable[[], Tensor]
) -> None:
    task = With(net(lambda: Shrunk(how, draw)))
    start = initial_weights(task.model, seed=1)
    settings = TrainingSettings(rounds=8, learning_rate=0.2)
    trained = simulate(task, NODES, lambda federation: federation.fit(start, settings))
    outputs = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = task.model()
        load(model, trained.weights)
        outputs.append(model(task.data(0)[0]))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("method", [FineTune(rounds=1), Rewind(rounds=1)], ids=lambda m: m.name)
def test_dropout_is_refused_whatever_the_method(method: FineTune | Rewind) -> None:
    with pytest.raises(NotDeterministicError, match="use weight decay instead"):
        simulate(BrokenTask("dropout"), NODES, no_body)


def test_the_server_refuses_a_node_by_the_tensor_that_differs() -> None:
    class Differs(TinyTask):
        def __init__(self, node: int, what: str) -> None:
            super().__init__()
            self.node, self.what = node, what

        def model(self) -> nn.Module:
            model = super().model()
            nn.init.zeros_(model[0].bias)  # type: ignore[index,arg-type]
            odd = self.node == 1
            model.register_buffer("mean", torch.full((2,), 1.0 if odd and self.what == "b" else 0))
            if odd and self.what == "layer":
                model[1] = nn.ReLU()
            if odd and self.what == "mode":
                model.eval()
            if odd and self.what == "frozen":
                model[0].bias.requires_grad_(False)
            if odd and self.what == "dtype":
                model.float()
            return model

        def data(self, node: int) -> Examples:
            inputs, targets = super().data(node)
            odd = self.node == 1 and self.what == "dtype"
            return (inputs.float() if odd else inputs), targets

    for what, part in (
        ("b", "buffer 'mean' differs"),
        ("layer", "layer '1' differs"),
        ("mode", "the model's class differs"),
        ("frozen", "frozen parameter '0.bias' is added|parameter '0.bias' is missing"),
        ("dtype", "parameter '0.weight' differs"),
    ):
        app = app_of(
            lambda context, settings, what=what: TaskNode(  # type: ignore[misc]
                Differs(settings.number, what), settings.number
            )
        )
        grid = MeteredGrid(InlineGrid(app, 4), MeterStack())
        with pytest.raises(ModelDiffersError, match=f"node 1: model: ({part}).*the same code"):
            enrol(grid, 4, deadline_s=30.0)
    own = NetworkDigest.of(build_model(Differs(1, "b").model))
    app = app_of(lambda context, settings: TaskNode(Differs(0, ""), settings.number))
    grid = MeteredGrid(InlineGrid(app, 3), MeterStack())
    with pytest.raises(ModelDiffersError, match=r"node 0, 1, 2: .*'mean'.*with the server"):
        enrol(grid, 3, deadline_s=30.0, network=own)


def test_who_has_left_or_says_nothing_is_not_compared() -> None:
    one, other = (NetworkDigest.of(nn.Linear(2, width)) for width in (3, 4))
    said = {
        0: Enrolment(0, 5, network=one),
        1: Enrolment(1, 5, network=other, left=True),
        2: Enrolment(2, 5),
    }
    assert require_same_network(said) == one
    assert require_same_network({2: Enrolment(2, 5)}) is None
    with pytest.raises(ModelDiffersError, match="node 1: model: the model's class differs"):
        require_same_network({**said, 1: Enrolment(1, 5, network=other)})


def test_the_digest_covers_every_tensor_and_layer_but_no_weight() -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).eval()

    base = NetworkDigest.of(make())
    with torch.no_grad():
        same = make()
        same[0].weight += 1.0
        assert NetworkDigest.of(same).digest == base.digest
        other = make()
        other[1].running_var[2] += 1e-6
    assert base.difference(NetworkDigest.of(other)) == "buffer '1.running_var' differs"
    dropped = make()
    dropped[2] = nn.Dropout(0.4).eval()
    assert base.difference(NetworkDigest.of(dropped)) == "layer '2' differs"
    assert NetworkDigest.of(make()) == base


def test_building_leaves_the_generators_alone_and_is_the_same_everywhere() -> None:
    def make() -> nn.Module:
        model = nn.Linear(2, 2)
        model.register_buffer("noise", of_numpy() + of_python())
        return model

    torch.manual_seed(1)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index,union-attr]
    models = [build_model(make) for _ in range(2)]
    assert torch.equal(models[0].noise, models[1].noise)  # type: ignore[arg-type]
    assert torch.equal(models[0].weight, models[1].weight)  # type: ignore[arg-type]
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index,union-attr]
    assert torch.equal(states[0], after[0])
    assert states[1:] == after[1:]


def test_an_empty_node_and_a_node_that_has_left_enrol_as_before(tmp_path: Path) -> None:
    with pytest.raises(EmptyNodeError, match="node 1: data: no examples"):
        simulate(BrokenTask("empty"), NODES, no_body)
    enrolment = TaskNode(TinyTask(), 1).enrol()
    assert enrolment.examples == 17
    assert enrolment.network == NetworkDigest.of(TinyTask().model())
