"""Rounds as Flower messages, over any of Flower's grids.

Message types: ``query.enrol`` (the node's number and number of examples) and ``query.ask`` (a
question).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence

from flwr.app import ConfigRecord, Message, RecordDict

from fedunlearn.errors import (
    BadAnswerError,
    FederationError,
    MissingAnswerError,
    NodeFailedError,
)
from fedunlearn.federation.transport.base import node_failure
from fedunlearn.flower.metered_grid import POLL_S, MeteredGrid
from fedunlearn.flower.records import (
    config_number,
    enrolment_in,
    header_bytes,
    tensors_from_record,
    tensors_to_record,
)
from fedunlearn.names import is_name, listed
from fedunlearn.networks import NetworkDigest
from fedunlearn.node.enrolment import Enrolment, require_same_network
from fedunlearn.questions.forget import Part
from fedunlearn.questions.question import Answer, Question
from fedunlearn.questions.wire import decode_answer, encode_question

ENROL = "query.enrol"
ASK = "query.ask"
# Share of the time for enrolment in which all nodes should have connected.
WAITING = 0.75


class MessageTransport:
    """A Transport that sends questions as Flower messages of type ``query.ask``."""

    def __init__(self, grid: MeteredGrid, addresses: Mapping[int, int]) -> None:
        """Take a grid and the Flower node id of each node."""
        self.grid = grid
        self.addresses = addresses
        self._numbers = {address: number for number, address in addresses.items()}

    def ask(
        self, question: Question, nodes: Sequence[int], /, *, deadline_s: float
    ) -> Iterator[Answer]:
        """See Transport."""
        header = encode_question(question)
        tensors = tensors_to_record(
            {"point": question.point, "vectors": question.vectors}
            if len(question.vectors)
            else {"point": question.point}
        )
        state = tensors_to_record(question.carried) if question.carried else None

        def to(node: int) -> Message:
            # Nodes of a user's app learn their number only from this message.
            named = ConfigRecord({"question": header, "number": node})
            content = RecordDict({"header": named, "tensors": tensors})
            if state is not None:
                content["state"] = state
            return Message(content, self.addresses[node], ASK, ttl=deadline_s)

        messages = [to(node) for node in nodes]
        for reply in self.grid.exchange(messages, deadline_s):
            number = self._numbers[reply.metadata.src_node_id]
            raise_failure(f"node {number}", reply)
            try:
                header = header_bytes(reply, "answer")
                values = tensors_from_record(reply.content.array_records["tensors"])
            except (KeyError, ValueError):
                raise BadAnswerError(f"node {number} answered with other records") from None
            if not set(values) <= set(Part):
                raise BadAnswerError(f"node {number} answered for parts that do not exist")
            yield decode_answer(
                number, header, {Part(name): tensor for name, tensor in values.items()}
            )


def enrol(
    grid: MeteredGrid,
    expected: int,
    *,
    deadline_s: float,
    refused: Collection[int] = (),
    network: NetworkDigest | None = None,
    sent: Collection[str] = (),
) -> dict[int, tuple[int, Enrolment]]:
    """Enrol all nodes with number, address and examples: one round, if all are connected.

    Args:
        grid: The grid.
        expected: Number of nodes that must answer, besides the refused ones.
        deadline_s: Seconds to wait for nodes and for their answers.
        refused: Numbers of nodes that have left; their answers are ignored.
        network: The server's network, where it has one; nodes must have the same.
        sent: Names in ``state_dict`` of tensors in which nodes may differ, since the server has
            their trained values.

    Returns:
        The Flower node id and the enrolment of each node, by the node's number.

    Raises:
        MissingAnswerError: Fewer nodes are connected, or answer, than expected.
        FederationError: Two nodes claim one number.
        ModelDiffersError: Nodes compute on different networks.
    """
    start = time.monotonic()
    end = start + deadline_s
    contacted: set[int] = set()
    found: dict[int, tuple[int, Enrolment]] = {}
    while len(found) < expected:
        # Connected nodes are contacted after part of the time, so that a message can name them.
        until = end if contacted else start + WAITING * deadline_s
        addresses = [one for one in grid.get_node_ids() if one not in contacted]
        while len(addresses) < expected - len(found) and time.monotonic() < until:
            grid.require_running()
            time.sleep(POLL_S)
            addresses = [one for one in grid.get_node_ids() if one not in contacted]
        if not addresses and time.monotonic() >= until:
            break
        contacted.update(addresses)
        messages = [Message(RecordDict(), address, ENROL, ttl=deadline_s) for address in addresses]
        for reply in grid.exchange(messages, max(0.0, end - time.monotonic())):
            address = reply.metadata.src_node_id
            if _number_of(reply) in refused:
                continue
            raise_failure(f"the node at address {address}", reply)
            enrolment = enrolment_in(reply.content.config_records["header"])
            number = enrolment.node
            if number in found:
                raise FederationError(f"two nodes call themselves node {number}; number them apart")
            found[number] = (address, enrolment)
    if len(found) < expected:
        here = listed("node", map(str, sorted(found)))
        raise MissingAnswerError(
            f"{len(found)} of {expected} nodes enrolled within {deadline_s:g} s"
            f"{f': {here}' if found else ''}; start the others"
        )
    require_same_network({number: one for number, (_, one) in found.items()}, network, sent=sent)
    return found


def _number_of(reply: Message) -> int | None:
    """Return the number that a node gives in its answer, even where it reports a failure."""
    if reply.has_error():
        return None
    for name in ("header", "failure"):
        if name in reply.content.config_records:
            return int(config_number(reply.content.config_records[name], "node"))
    return None


def raise_failure(who: str, reply: Message) -> None:
    """Raise the failure that a reply reports.

    Args:
        who: The sender, as far as the server knows it; a failure record names its node itself.
        reply: Any reply.

    Raises:
        NodeFailedError: Flower or the node reports a failure. The node's own error class is used
            where that class reports a fault of the input.
    """
    if reply.has_error():
        raise NodeFailedError(f"{who}: Flower reports error {reply.error.code}; see the node's log")
    if "failure" in reply.content:
        failure = reply.content.config_records["failure"]
        number = int(config_number(failure, "node"))
        kind, message = str(failure["kind"]), str(failure["message"])
        name = str(failure.get("name", ""))
        called = None if number >= 0 else f"node {name}" if is_name(name) else who
        error = node_failure(number, kind, message, called)
        raise error
