"""A federation whose nodes are in this process: no engine, no messages, no worker processes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from fedunlearn.federation.accounting import MeterStack
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.inline_training import InlineTrainer
from fedunlearn.federation.transport.base import node_failure
from fedunlearn.federation.transport.inline import InlineTransport
from fedunlearn.federation.transport.payload import values_bytes
from fedunlearn.networks import NetworkDigest
from fedunlearn.node.enrolment import Enrolment, require_same_network
from fedunlearn.node.node import TaskNode
from fedunlearn.node.safe_message import safe_message
from fedunlearn.parameters import ParameterLayout
from fedunlearn.progress import Progress, Silent
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.questions.wire import encode_forget_set


def open_inline(
    nodes: Mapping[int, TaskNode],
    *,
    progress: Progress | None = None,
    layout: ParameterLayout | None = None,
    network: NetworkDigest | None = None,
    refused: Collection[int] = (),
) -> Federation:
    """Enrol nodes of this process.

    Args:
        nodes: The nodes, by number.
        progress: Progress display, which is updated after every round; None for none.
        layout: Layout of the model's tensors, for methods that distinguish layers.
        network: The server's own network, where it has the Task; nodes with another are refused.
        refused: Nodes that have left; they are sent nothing.

    Returns:
        The federation, ready to train and to answer.

    Raises:
        FedunlearnError: A node cannot be used, or computes on another network.
    """
    meters = MeterStack()
    enrolments = {number: _enrol(nodes, number) for number in sorted(set(nodes) - set(refused))}
    require_same_network(enrolments, network)
    here = {number: enrolment for number, enrolment in enrolments.items() if not enrolment.left}

    def send_tombstones(
        deletion: str, forget: ForgetSet, concerned: Sequence[int]
    ) -> dict[int, int]:
        rule = encode_forget_set(forget).SerializeToString()
        sent = values_bytes({"deletion": deletion, "forget": rule, "number": 0})
        meters.count_round()
        meters.count_bytes(
            down=len(concerned) * sent, up=len(concerned) * values_bytes({"examples": 0})
        )
        return {number: _record(nodes, number, deletion, forget) for number in concerned}

    return Federation(
        examples={number: enrolment.examples for number, enrolment in here.items()},
        transport=InlineTransport(nodes, meters),
        trainer=InlineTrainer(nodes, here, meters),
        meters=meters,
        progress=progress or Silent(),
        layout=layout,
        enrolments=here,
        send_tombstones=send_tombstones,
    )


def _enrol(nodes: Mapping[int, TaskNode], number: int) -> Enrolment:
    with _blamed_on(number):
        return nodes[number].enrol()


def _record(nodes: Mapping[int, TaskNode], number: int, deletion: str, forget: ForgetSet) -> int:
    with _blamed_on(number):
        return nodes[number].record_tombstones(deletion, forget)


@contextmanager
def _blamed_on(number: int) -> Iterator[None]:
    """Convert a node's exception into the one that the server raises from a node's report."""
    try:
        yield
    except Exception as error:
        raise node_failure(number, type(error).__name__, safe_message(error)) from error
