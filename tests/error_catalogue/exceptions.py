"""One real call for every exception class, which raises that class and no other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from fedunlearn import (
    CubicNewton,
    Federation,
    ForgetSet,
    InstantCubicNewton,
    TrainedModel,
    TrainingSettings,
    initial_weights,
    open_recording,
    simulate,
)
from fedunlearn.cli.work import _require_none
from fedunlearn.federation.accounting import MeterStack
from fedunlearn.federation.journal import Journal
from fedunlearn.federation.objective import FederatedObjective
from fedunlearn.federation.transport.session import SessionTransport
from fedunlearn.federation.transport.session_server import SessionServer
from fedunlearn.flower import unlearnable
from fedunlearn.lab.experiment import Experiment
from fedunlearn.node.checks import read_examples
from fedunlearn.node.node import TaskNode
from fedunlearn.node.session_client import attend
from fedunlearn.node.tombstones import Tombstones
from fedunlearn.progress import Silent
from fedunlearn.questions.question import Answer, Question
from fedunlearn.requests.keys import PrivateKey, PublicKey
from fedunlearn.requests.receipts import verify_receipt
from fedunlearn.requests.statement import node_scope
from fedunlearn.requests.store import RequestStore, state_url
from fedunlearn.scenario.loading import load_scenario
from fedunlearn.service.client import DeletionClient
from fedunlearn.testing import Points, in_process
from tests.deletions import ALICE, ISSUER, START, at, leased, made, populate, request
from tests.federations import BrokenTask, join
from tests.unit.test_receipts import receipt

SETTINGS = TrainingSettings(rounds=1, learning_rate=0.1)
FORGET = ForgetSet.of_nodes(2)


def _trained() -> TrainedModel:
    weights = initial_weights(Points().model, seed=0)
    return TrainedModel(weights, weights, SETTINGS)


def _broken(how: str) -> None:
    in_process(BrokenTask(how), 3).close()


class Detached(Points):
    def model(self) -> nn.Module:
        class Net(nn.Linear):
            def forward(self, inputs: Tensor) -> Tensor:
                return super().forward(inputs).detach()

        return Net(2, 3).double()


class RandomBuffer(Points):
    def model(self) -> nn.Module:
        model = super().model()
        model.register_buffer("mask", torch.randn(3))
        return model


class Absolute(Points):
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:  # type: ignore[override]
        return (outputs.sum(1) - targets).abs().mean()


class Untensored(Points):
    def data(self, node: int) -> Any:
        return "a path"


class Between:
    """A transport that changes what another one brings."""

    def __init__(self, inner: Any, change: Callable[[Answer], Iterator[Answer]]) -> None:
        self._inner = inner
        self._change = change

    def ask(
        self, question: Question, nodes: Sequence[int], /, *, deadline_s: float
    ) -> Iterator[Answer]:
        for answer in self._inner.ask(question, nodes, deadline_s=deadline_s):
            yield from self._change(answer)


def _with_answers(change: Callable[[Answer], Iterator[Answer]]) -> None:
    with in_process(Points(), 3) as federation:
        changed = replace(federation, transport=Between(federation.transport, change))
        CubicNewton().unlearn(_trained(), changed, FORGET)


def _without_node_1(answer: Answer) -> Iterator[Answer]:
    if answer.node != 1:
        yield answer


def _of_another_round(answer: Answer) -> Iterator[Answer]:
    yield replace(answer, round=answer.round + 7) if answer.node == 1 else answer


def work_that_is_left(folder: Path) -> None:
    _require_none(["3f1c"])


def app_with_a_module(folder: Path) -> None:
    unlearnable(ClientApp(), model=nn.Linear(4, 3), loss=None, data=print)


def misspelt_key(folder: Path) -> None:
    (folder / "scenario.toml").write_text("[data]\npartion = 'iid'\n")
    load_scenario(folder / "scenario.toml")


def everybody_leaves(folder: Path) -> None:
    with in_process(Points(), 3) as federation:
        CubicNewton().unlearn(_trained(), federation, ForgetSet.of_nodes(0, 1, 2))


def unknown_name(folder: Path) -> None:
    (folder / "scenario.toml").write_text("[forget]\nkind = 'class'\nclass = 'cat'\n")
    Experiment.prepare(load_scenario(folder / "scenario.toml"))


def nothing_recorded(folder: Path) -> None:
    with in_process(Points(), 3) as federation:
        InstantCubicNewton().unlearn(_trained(), federation, FORGET)


def no_recording(folder: Path) -> None:
    open_recording(folder / "recording")


def another_job(folder: Path) -> None:
    for forget in (FORGET, ForgetSet.of_nodes(0)):
        with in_process(Points(), 3) as federation:
            journaled = replace(federation, journal=Journal(folder / "job"))
            CubicNewton(products=2).unlearn(_trained(), journaled, forget)


def node_that_left(folder: Path) -> None:
    def leave(federation: Federation) -> None:
        federation.record_tombstones("a request", FORGET)

    simulate(Points(), 3, leave, records=folder)
    (listed,) = folder.glob("*2/tombstones.json")
    tombstones = Tombstones(listed)
    tombstones.refresh()
    tombstones.require_present()


def data_that_are_none(folder: Path) -> None:
    in_process(Untensored(), 3).close()


def curvature_of_absolute_loss(folder: Path) -> None:
    with in_process(Absolute(), 3) as federation:
        CubicNewton(curvature="ggn").unlearn(_trained(), federation, FORGET)


def missing_store(folder: Path) -> None:
    RequestStore.open(state_url(folder), create=False)


def private_for_public(folder: Path) -> None:
    path = folder / "clinic.key"
    ALICE.write(path)
    PublicKey.read(path)


def _store(folder: Path) -> RequestStore:
    store = RequestStore.open(state_url(folder), issuer=ISSUER)
    populate(store)
    return store


def unknown_request(folder: Path) -> None:
    _store(folder).get("00000000-0000-4000-8000-000000000000")


def reused_id(folder: Path) -> None:
    store, name = _store(folder), "3f1c0000-0000-4000-8000-000000000000"
    made(store, request(node_scope(["0"]), request_id=name))
    made(store, request(node_scope(["1"]), request_id=name))


def approve_what_does_not_wait(folder: Path) -> None:
    store = _store(folder)
    store.approve(made(store).id, actor="operator olga", now=START)


def wrong_key(folder: Path) -> None:
    verify_receipt(receipt(ALICE), PrivateKey.generate("ed25519").public)


def lost_lease(folder: Path) -> None:
    store = _store(folder)
    made(store)
    lease = leased(store)
    store.fail(lease, "a node did not answer", now=at(1))
    store.renew(lease, now=at(2), seconds=9)


def no_service(folder: Path) -> None:
    with DeletionClient("127.0.0.1:1", ALICE, plaintext=True) as client:
        client.get("3f1c0000-0000-4000-8000-000000000000")


def own_code(folder: Path) -> None:
    read_examples(BrokenTask("raises"), 1)


def no_way_to_nodes(folder: Path) -> None:
    with in_process(Points(), 3) as federation:
        replace(federation, send_tombstones=None).record_tombstones("a request", FORGET)


def lost_node(folder: Path) -> None:
    server = SessionServer(range(3))
    try:
        server.link(1)
    finally:
        server.close()


def unreachable_server(folder: Path) -> None:
    server = SessionServer((1,))
    invitation = replace(server.invite(1), address="127.0.0.1:1")
    server.close()
    attend(TaskNode(Points(), 1), invitation, connect_s=0.2)


def stopped(folder: Path) -> None:
    stop, meters = threading.Event(), MeterStack()
    server = SessionServer((1,))
    thread = join(server.invite(1), TaskNode(Points(), 1))
    try:
        assert server.wait(30.0) == ()
        stop.set()
        transport = SessionTransport(server, meters, stop=stop)
        FederatedObjective(
            transport,
            (1,),
            FORGET,
            weight_decay=0.0,
            meters=meters,
            progress=Silent(),
            deadline_s=30.0,
        ).gradient(_trained().weights)
    finally:
        server.close()
        thread.join(30.0)


EXCEPTIONS: Mapping[str, Callable[[Path], None]] = {
    "FedunlearnError": work_that_is_left,
    "InputError": app_with_a_module,
    "ScenarioError": misspelt_key,
    "ForgetSetError": everybody_leaves,
    "UnknownNameError": unknown_name,
    "NotRecordedError": nothing_recorded,
    "RecordingError": no_recording,
    "JobError": another_job,
    "NodeLeftError": node_that_left,
    "TaskError": data_that_are_none,
    "EmptyNodeError": lambda folder: _broken("empty"),
    "NotDeterministicError": lambda folder: _broken("dropout"),
    "NotDifferentiableError": lambda folder: in_process(Detached(), 3).close(),
    "ModelDiffersError": lambda folder: in_process(RandomBuffer(), 3).close(),
    "NoCurvatureError": curvature_of_absolute_loss,
    "StoreError": missing_store,
    "KeyFileError": private_for_public,
    "UnknownDeletionError": unknown_request,
    "RequestReusedError": reused_id,
    "TransitionError": approve_what_does_not_wait,
    "VerificationError": wrong_key,
    "LeaseLostError": lost_lease,
    "ServiceError": no_service,
    "NonFiniteError": lambda folder: _broken("nan"),
    "OwnCodeError": own_code,
    "FederationError": no_way_to_nodes,
    "MissingAnswerError": lambda folder: _with_answers(_without_node_1),
    "NodeFailedError": lambda folder: _broken("raises"),
    "NodeLostError": lost_node,
    "BadAnswerError": lambda folder: _with_answers(_of_another_round),
    "UnreachableError": unreachable_server,
    "StoppedError": stopped,
}
