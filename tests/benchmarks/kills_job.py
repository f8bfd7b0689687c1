"""What the processes that are killed do: one removal after another, resumed where it was."""

from __future__ import annotations

import io
import json
import shutil
import time
from pathlib import Path

import torch
from torch import Tensor

from fedunlearn.errors import FederationError
from fedunlearn.federation.accounting import MeterStack
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.journal import Journal
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.federation.transport.base import Transport
from fedunlearn.federation.transport.inline import InlineTransport
from fedunlearn.federation.transport.session import SessionTransport
from fedunlearn.federation.transport.session_server import SessionServer
from fedunlearn.files import replacing
from fedunlearn.node.node import TaskNode
from fedunlearn.node.session_client import attend
from fedunlearn.parameters import initial_weights
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.questions.invitation import Invitation
from fedunlearn.questions.question import Answer, Question
from fedunlearn.settings import TrainingSettings
from fedunlearn.unlearning.cubic_newton import CubicNewton
from tests.benchmarks.kills import NODES, STOP, invitation_path
from tests.federations import TinyTask

FORGET = ForgetSet.of_nodes(1)
ANSWER_S = 0.15  # what an answer takes, so that kills fall into rounds


class Slow(TaskNode):
    def answer(self, question: Question) -> Answer:
        time.sleep(ANSWER_S)
        return super().answer(question)


def removed(transport: Transport, meters: MeterStack, journal: Journal | None) -> Tensor:
    federation = Federation(
        examples={n: len(TinyTask().data(n)[1]) for n in range(NODES)},
        transport=transport,
        trainer=None,  # type: ignore[arg-type]  # nothing is trained here
        meters=meters,
        journal=journal,
    )
    weights = initial_weights(TinyTask().model, 0)
    trained = TrainedModel(weights + 0.3, weights, TrainingSettings())
    return CubicNewton().unlearn(trained, federation, FORGET).weights


def undisturbed() -> Tensor:
    nodes = {n: TaskNode(TinyTask(), n) for n in range(NODES)}
    return removed(InlineTransport(nodes), MeterStack(), None)


def serve(folder: Path, nodes: int) -> None:
    """Do one removal after another; each leaves its weights and no journal."""
    torch.set_num_threads(1)
    server = SessionServer(range(nodes))

    def invite(node: int) -> None:
        made = server.invite(node)
        order = (made.node, made.address, made.token, made.certificate.decode())
        with replacing(invitation_path(folder, node)) as file:
            file.write(json.dumps(order).encode())

    for node in range(nodes):
        invite(node)
    while server.wait(30.0):  # somebody was killed in between
        for node in server.missing():
            invite(node)
    meters = MeterStack()
    transport = SessionTransport(server, meters, again=invite)
    while True:  # one job at least, also where the stop came before this process
        weights = removed(transport, meters, Journal(folder / "job"))
        number = len(list(folder.glob("weights-*.pt")))
        buffer = io.BytesIO()
        torch.save(weights, buffer)
        with replacing(folder / f"weights-{number:03d}.pt") as file:
            file.write(buffer.getvalue())
        shutil.rmtree(folder / "job", ignore_errors=True)
        if (folder / STOP).exists():
            break
    server.close()


def attend_for_ever(folder: Path, number: int) -> None:
    """Take every invitation, also after the server was killed."""
    torch.set_num_threads(1)
    path = invitation_path(folder, number)
    used = ""
    while True:
        if path.exists():
            node, address, token, certificate = json.loads(path.read_text())
            if token != used:
                invitation = Invitation(node, address, token, certificate.encode())
                used = token
                try:
                    attend(Slow(TinyTask(), node), invitation, connect_s=2.0)
                except FederationError:
                    pass
        time.sleep(0.05)
