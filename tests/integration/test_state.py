"""A model with buffers is asked about as it was trained, over every transport."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fedunlearn import CubicNewton, TrainedModel
from fedunlearn.errors import JobError, ModelDiffersError
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.journal import Journal
from fedunlearn.federation.objective import FederatedObjective
from fedunlearn.federation.transport.session import SessionTransport
from fedunlearn.model_state import ModelState
from fedunlearn.names import Names
from fedunlearn.node.node import TaskNode
from fedunlearn.operator.federation_remover import FederationRemover
from fedunlearn.operator.model_store import read_model, read_state
from fedunlearn.operator.site import Site
from fedunlearn.parameters import flatten, load
from fedunlearn.progress import Silent
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.requests.deletion import Scope, ScopeKind
from fedunlearn.risk.products import Curvature
from fedunlearn.risk.task import Examples
from fedunlearn.state_transfer import state_to_transfer
from fedunlearn.worker.model_folder import ModelFolder
from fedunlearn.worker.removal_job import RemovalJob
from tests.federations import TRANSPORTS, InTurn, Reach, join
from tests.removals import SETTINGS, Untrained

NODES = 3
STAYS = ForgetSet.of_nodes(2)


class Images:
    """Small images of three classes; a network with BatchNorm and dropout, in eval mode."""

    loss = nn.CrossEntropyLoss()

    def __init__(self, shift: float = 0.0, size: int = 10) -> None:
        self.shift = shift
        self.size = size

    def layers(self) -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.4)),
            *(nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)),
        )

    def model(self) -> nn.Module:
        return self.layers().double().eval()

    def data(self, node: int) -> Examples:
        generator = torch.Generator().manual_seed(70 + node)
        targets = torch.randint(0, 3, (self.size + node,), generator=generator)
        inputs = torch.randn(len(targets), 1, 4, 4, generator=generator).double()
        inputs += targets.double()[:, None, None, None] + 0.3 * node
        if node == 2:
            inputs += self.shift
        return inputs, targets


class OneLayer(Images):
    """A normalisation layer at the input, whose statistics are those of the data."""

    def layers(self) -> nn.Module:
        return nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(16, 3))


class Plain(Images):
    def layers(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def trained(task: Images) -> nn.Module:
    """Train on all nodes' data, as a user's app would, in training mode."""
    torch.manual_seed(1)
    model = task.model().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    for node in [*range(NODES)] * 5:
        inputs, targets = task.data(node)
        optimizer.zero_grad()
        task.loss(model(inputs), targets).backward()
        optimizer.step()
    return model.eval()


def state_of(model: nn.Module) -> dict[str, Tensor]:
    fixed = {name for name, _ in model.named_buffers()}
    return {name: value.clone() for name, value in model.state_dict().items() if name in fixed}


def objective_of(
    reach: Reach, state: dict[str, Tensor], forget: ForgetSet = STAYS
) -> FederatedObjective:
    return FederatedObjective(
        reach.transport,
        reach.nodes,
        forget,
        weight_decay=0.0,
        meters=reach.meters,
        progress=Silent(),
        deadline_s=30.0,
        state=state,
    )


def pooled(task: Images, nodes: tuple[int, ...]) -> Examples:
    parts = [task.data(node) for node in nodes]
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def own_gradient(task: Images, model: nn.Module, nodes: tuple[int, ...]) -> Tensor:
    inputs, targets = pooled(task, nodes)
    gradients = torch.autograd.grad(task.loss(model(inputs), targets), list(model.parameters()))
    return torch.cat([gradient.reshape(-1) for gradient in gradients])


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_gradients_are_those_of_the_model_that_was_trained(transport: str) -> None:
    task = Images()
    model = trained(task)
    weights, state = flatten(model), state_of(model)
    objective = objective_of(TRANSPORTS[transport](task, NODES), state)
    found = objective.gradients(weights)
    for mean, nodes in ((found.retain, (0, 1)), (found.forget, (2,))):
        expected = own_gradient(task, model, nodes)
        assert float(mean.norm()) == pytest.approx(float(expected.norm()), rel=1e-5)
        torch.testing.assert_close(mean, expected)
    bare = objective_of(TRANSPORTS[transport](task, NODES), {}).gradients(weights)
    assert float((bare.retain - found.retain).norm()) > 0.1 * float(found.retain.norm())


def test_losses_evaluations_and_products_are_at_the_state(transport: str) -> None:
    task = Images()
    model = trained(task)
    weights, state = flatten(model), state_of(model)
    objective = objective_of(TRANSPORTS[transport](task, NODES), state)
    step = 0.1 * torch.ones_like(weights)
    inputs, targets = pooled(task, (0, 1))
    moved = task.model()
    moved.load_state_dict(model.state_dict())
    load(moved, weights + step)
    with torch.no_grad():
        wanted = [task.loss(one(inputs), targets) for one in (model, moved)]
        right = [(one(inputs).argmax(1) == targets).double().mean() for one in (model, moved)]
    torch.testing.assert_close(objective.losses(weights, step[None]), torch.stack(wanted))
    evaluated = objective.evaluate(weights, step[None])[Part.RETAIN]
    for one, loss, share in zip(evaluated, wanted, right, strict=True):
        assert one.own is not None and one.held_out is None
        assert one.own.loss == pytest.approx(float(loss))
        assert one.own.accuracy == pytest.approx(float(share))
    small = 1e-5 * torch.randn(len(weights), generator=torch.Generator().manual_seed(0)).double()
    product = objective.products(weights, small[None], Curvature.HESSIAN)[0]
    pair = []
    for sign in (1.0, -1.0):
        load(moved, weights + sign * small)
        pair.append(own_gradient(task, moved, (0, 1)))
    torch.testing.assert_close(product, (pair[0] - pair[1]) / 2.0, rtol=1e-4, atol=1e-9)


def test_another_state_is_another_model_and_none_is_what_was_built(transport: str) -> None:
    task = Images()
    model = trained(task)
    weights, state = flatten(model), state_of(model)
    reach = TRANSPORTS[transport](task, NODES)
    vectors = torch.ones(2, len(weights)).double()
    other = {name: value + 1 for name, value in state.items()}
    some = {name: value for name, value in other.items() if name.startswith("1.")}
    found = {}
    for name, one in (("own", state), ("other", other), ("none", {}), ("some", some)):
        fresh = objective_of(TRANSPORTS[transport](task, NODES), one)
        again = objective_of(reach, one)
        for objective in (fresh, again):
            objective.gradients(weights)
        found[name] = again.products(weights, vectors, Curvature.GGN)
        expected = fresh.products(weights, vectors, Curvature.GGN)
        torch.testing.assert_close(found[name], expected, rtol=1e-12, atol=1e-14)
    assert len({float(value.sum()) for value in found.values()}) == 4


def test_a_state_that_the_model_has_not_is_refused_by_name(transport: str) -> None:
    task = Images()
    weights, state = flatten(task.model()), state_of(task.model())
    for change, says in (
        ({"1.other": torch.zeros(4)}, "node 0: model: has no tensor '1.other'"),
        ({"1.running_mean": torch.zeros(5)}, r"node 0: model: tensor '1.running_mean' has shape"),
    ):
        objective = objective_of(TRANSPORTS[transport](task, 1), {**state, **change})
        with pytest.raises(ModelDiffersError, match=says):
            objective.gradients(weights)


def test_the_bytes_of_the_state_are_counted_and_a_session_sends_them_once(transport: str) -> None:
    task = Images()
    model = trained(task)
    weights, state = flatten(model), state_of(model)
    reach = TRANSPORTS[transport](task, NODES)
    down = []
    for one in ({}, state):
        objective = objective_of(reach, one)
        with reach.meters.measure() as meter:
            objective.gradients(weights)
            objective.gradients(weights)
        down.append(meter.bytes_down)
    nbytes = sum(8 * value.numel() for value in state.values())
    times = NODES if transport == "session" else 2 * NODES
    assert times * nbytes <= down[1] - down[0] < times * (nbytes + 1500) + 2 * NODES * 50


def test_half_of_the_bytes_of_questions_rounds_no_state() -> None:
    task = Images()
    model = trained(task)
    weights, state = flatten(model).bfloat16().double(), state_of(model)
    reach = TRANSPORTS["session"](task, NODES)
    assert isinstance(reach.transport, SessionTransport)
    exact = objective_of(reach, state).gradient(weights)
    halved = SessionTransport(reach.transport.server, reach.meters, payload=torch.bfloat16)
    fresh = replace(reach, transport=halved)
    other = {name: value.clone() for name, value in state.items()}
    other["1.num_batches_tracked"] += 1  # so that it is sent again
    assert torch.equal(objective_of(fresh, other).gradient(weights), exact)


def test_a_round_that_was_finished_belongs_to_its_state(tmp_path: Path) -> None:
    task = Images()
    model = trained(task)
    weights, state = flatten(model), state_of(model)

    def gradient(state: dict[str, Tensor]) -> Tensor:
        reach = TRANSPORTS["inline"](task, NODES)
        examples = {node: len(task.data(node)[1]) for node in range(NODES)}
        federation = Federation(examples, reach.transport, Untrained(), reach.meters, state=state)
        federation = replace(federation, journal=Journal(tmp_path))
        return federation.objective(STAYS, weight_decay=0.0).gradient(weights)

    first = gradient(state)
    assert torch.equal(gradient(state), first)
    with pytest.raises(JobError, match="another job, model"):
        gradient({**state, "1.running_mean": state["1.running_mean"] + 1.0})


def test_a_node_that_was_given_a_state_enrols_as_it_was_built() -> None:
    task = Images()
    node = TaskNode(task, 0)
    before = node.enrol().network
    model = trained(task)
    reach = TRANSPORTS["inline"](task, 1)
    reach.transport.nodes = {0: node}  # type: ignore[attr-defined]
    objective_of(reach, state_of(model), ForgetSet.of_nodes()).gradient(flatten(model))
    assert node.enrol().network == before


def test_the_worker_removes_at_the_trained_state_and_estimates_it_anew(tmp_path: Path) -> None:
    task = Images()
    model = trained(task)
    weights, state = flatten(model), state_of(model)
    reach = TRANSPORTS["inline"](task, NODES)
    examples = {node: len(task.data(node)[1]) for node in range(NODES)}
    federation = Federation(examples, reach.transport, Untrained(), reach.meters)
    method = CubicNewton(products=4, linearise_at=1.0)
    nodes, labels = Names.numbered("node", NODES), Names.numbered("class", 3)
    site = Site(nodes, labels, task.model, "cubic-newton", method)
    models = ModelFolder(tmp_path / "models")
    remover = FederationRemover(site, federation, models, tmp_path, lambda: ())
    sha256 = remover.model_store.store_first(TrainedModel(weights, weights, SETTINGS, state=state))
    assert remover.model_store.load(sha256).state == ModelState(state)

    job = RemovalJob("one", {"request": Scope(ScopeKind.NODE, nodes=("2",))}, sha256)
    removed = remover.remove(job, lambda stage: None)
    new = task.model()
    load(new, read_model(task.model(), removed.model))
    ModelState(state).load(new)
    with torch.no_grad():
        inputs, targets = pooled(task, (0, 1))
        before = task.loss(model(inputs), targets)
        objective = objective_of(reach, state)
        renewed = ModelState(objective.statistics(flatten(new), 32, SETTINGS.seed))
        assert read_state(removed.model) == renewed != ModelState(state)
        renewed.load(new)
        after = task.loss(new(inputs), targets)
    assert removed.measures["retain_loss_rise"] == pytest.approx(float(after - before))
    assert removed.statistics == "estimated again on the retain set"

    removed.keep(models.beside(models.put(removed.model)))
    again = remover.remove(replace(job, id="two"), lambda stage: None)
    assert again.model == removed.model


def test_who_joins_a_session_again_is_sent_the_state_again() -> None:
    task = Images()
    model = trained(task)
    reach = TRANSPORTS["session"](task, NODES)
    assert isinstance(reach.transport, SessionTransport)
    server = reach.transport.server
    threads: list[threading.Thread] = []

    def again(node: int) -> None:
        threads.append(join(server.invite(node), InTurn(TaskNode(task, node))))

    reach = replace(reach, transport=SessionTransport(server, reach.meters, again=again))
    objective = objective_of(reach, state_of(model))
    before = objective.gradients(flatten(model)).retain
    server.link(1).close()
    assert torch.equal(objective.gradients(flatten(model)).retain, before)
    server.close()
    (thread,) = threads
    thread.join(30.0)


class Drawn(Images):
    """Random features in a buffer that is drawn when the model is built."""

    def layers(self) -> nn.Module:
        return Features()


class Features(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("features", torch.randn(16, 5))
        self.head = nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(torch.cos(inputs.flatten(1) @ self.features))
        return outputs


def test_a_drawn_buffer_is_allowed_where_its_trained_value_is_sent() -> None:
    task = Drawn()
    with pytest.raises(ModelDiffersError, match="buffer 'features' is drawn anew"):
        TaskNode(task, 0).enrol()
    nodes = {number: TaskNode(task, number, sent={"features"}) for number in range(NODES)}
    said = {number: node.enrol().network for number, node in nodes.items()}
    torch.manual_seed(17)
    model = trained(task)
    travelling = state_to_transfer(task.model(), model.state_dict(), said)
    assert set(travelling.state) == {"features"}
    reach = TRANSPORTS["inline"](task, NODES)
    reach.transport.nodes = nodes  # type: ignore[attr-defined]
    found = objective_of(reach, dict(travelling.state)).gradients(travelling.weights)
    torch.testing.assert_close(found.retain, own_gradient(task, model, (0, 1)))
