"""Rounds as Flower messages, over any of Flower's grids.

Message types: ``query.enrol`` (who are you, how much do you hold) and ``query.ask`` (a question).
A client never lets an exception out, since Flower would carry its text to the server: it answers
with a record named ``failure`` instead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from torch import Tensor
from typing_extensions import override

from fedunlearn.errors import (
    BadAnswerError,
    FederationError,
    MissingAnswerError,
    NodeFailedError,
    StoppedError,
)
from fedunlearn.federation.accounting import MeterStack
from fedunlearn.federation.transport.base import node_failure
from fedunlearn.names import listed
from fedunlearn.networks import NetworkDigest
from fedunlearn.node.enrolment import Enrolment, require_same_network
from fedunlearn.node.node import TaskNode, safe_message
from fedunlearn.questions.forget import Part
from fedunlearn.questions.question import Answer, Question
from fedunlearn.questions.wire import (
    decode_answer,
    decode_question,
    encode_answer,
    encode_question,
)

ENROL = "query.enrol"
ASK = "query.ask"
POLL_S = 0.01
WAITING = 0.75  # of the time for enrolment: until then all nodes should be there


class MeteredGrid(Grid):
    """A grid that hands replies over as they come, counts what passes, and can be stopped.

    Flower's own ``send_and_receive`` sleeps between polls (0.1 s in simulation, 3 s deployed) and
    cannot be interrupted; this one polls every 10 ms.
    """

    def __init__(self, grid: Grid, meters: MeterStack, stop: threading.Event | None = None) -> None:
        """Wrap a grid.

        Args:
            grid: Flower's.
            meters: Told of rounds and bytes.
            stop: Set from outside to end every wait.
        """
        self._grid = grid
        self.meters = meters
        self.stop = stop or threading.Event()

    def exchange(self, messages: Iterable[Message], timeout: float | None) -> Iterator[Message]:
        """Send messages as one round and yield the replies as they come.

        Yields:
            Replies, in the order of their arrival; fewer where the time is up.

        Raises:
            StoppedError: The run was asked to stop.
        """
        outgoing = list(messages)
        if not outgoing:
            return
        self.meters.count_round()
        self.meters.count_bytes(down=sum(_payload(message) for message in outgoing))
        waiting = set(self._grid.push_messages(outgoing))
        del outgoing
        end = None if timeout is None else time.monotonic() + timeout
        while waiting and (end is None or time.monotonic() < end):
            self.require_running()
            replies = list(self._grid.pull_messages(waiting))
            for reply in replies:
                waiting.discard(reply.metadata.reply_to_message_id)
                self.meters.count_bytes(up=_payload(reply))
                yield reply
            if not replies:
                time.sleep(POLL_S)

    def require_running(self) -> None:
        """Raise where the run was asked to stop.

        Raises:
            StoppedError: It was.
        """
        if self.stop.is_set():
            raise StoppedError("stopped while waiting for nodes")

    @override
    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return list(self.exchange(messages, timeout))

    @override
    def set_run(self, run: Run) -> None:
        self._grid.set_run(run)

    @property
    @override
    def run(self) -> Run:
        return self._grid.run

    @override
    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    @override
    def get_node_ids(self) -> Iterable[int]:
        return self._grid.get_node_ids()

    @override
    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._grid.push_messages(messages)

    @override
    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._grid.pull_messages(message_ids)


class MessageTransport:
    """Asks questions as Flower messages of type ``query.ask``."""

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
            # Nodes of a user's app know their number from here alone.
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
    """Learn every node's number, address and number of examples: one round, if all are there.

    Args:
        grid: The grid.
        expected: How many nodes must answer, besides those refused.
        deadline_s: Seconds to wait for nodes and for their answers.
        refused: Numbers of nodes that have left; whatever they answer counts for nothing.
        network: The server's, where it has one: nodes must have the same.
        sent: Names in ``state_dict`` of tensors in which nodes may differ, since the server has
            their trained values.

    Returns:
        For each node's number: its Flower node id, and what it says of itself.

    Raises:
        MissingAnswerError: Fewer nodes are there, or answer, than expected.
        FederationError: Two nodes claim one number.
        ModelDiffersError: Nodes compute on different networks.
    """
    start = time.monotonic()
    end = start + deadline_s
    asked: set[int] = set()
    found: dict[int, tuple[int, Enrolment]] = {}
    while len(found) < expected:
        # Those that are there when part of the time is up are asked, so that it is known who is.
        until = end if asked else start + WAITING * deadline_s
        addresses = [one for one in grid.get_node_ids() if one not in asked]
        while len(addresses) < expected - len(found) and time.monotonic() < until:
            grid.require_running()
            time.sleep(POLL_S)
            addresses = [one for one in grid.get_node_ids() if one not in asked]
        if not addresses and time.monotonic() >= until:
            break
        asked.update(addresses)
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
    """Return the number that a node gives in its answer, also where it reports a failure."""
    if reply.has_error():
        return None
    for name in ("header", "failure"):
        if name in reply.content.config_records:
            return int(config_number(reply.content.config_records[name], "node"))
    return None


def reply_to_enrol(message: Message, node: TaskNode) -> Message:
    """Answer ``query.enrol`` on a node."""
    return Message(RecordDict({"header": enrolment_record(node.enrol())}), reply_to=message)


def enrolment_record(enrolment: Enrolment) -> ConfigRecord:
    """Return what a node says of itself as a record."""
    header = ConfigRecord({"node": enrolment.node, "examples": enrolment.examples})
    if enrolment.root is not None:
        header["root"] = enrolment.root
    removed_before = enrolment.records > enrolment.examples
    if enrolment.root is not None or enrolment.left or removed_before:
        header["records"] = enrolment.records
        header["left"] = int(enrolment.left)
    if enrolment.network is not None:
        header["parts"] = list(enrolment.network.parts)
        header["digests"] = list(enrolment.network.parts.values())
    return header


def enrolment_in(header: ConfigRecord) -> Enrolment:
    """Read what a node says of itself.

    Args:
        header: As ``enrolment_record`` returns it.

    Returns:
        The enrolment.

    Raises:
        BadAnswerError: It cannot be read.
    """
    node, examples = (int(config_number(header, key)) for key in ("node", "examples"))
    network = _network(node, header)
    root = header.get("root")
    if "records" not in header:
        return Enrolment(node, examples, network=network)
    if root is not None and not isinstance(root, bytes):
        raise BadAnswerError(f"node {node} enrolled with a Merkle root that is no digest")
    records, left = (int(config_number(header, key)) for key in ("records", "left"))
    return Enrolment(node, examples, root, records, bool(left), network)


def _network(node: int, header: ConfigRecord) -> NetworkDigest | None:
    parts, digests = header.get("parts"), header.get("digests")
    if parts is None and digests is None:
        return None
    if not isinstance(parts, list) or not isinstance(digests, list) or len(parts) != len(digests):
        raise BadAnswerError(f"node {node} enrolled with a network that is not described")
    named = zip(parts, digests, strict=True)
    return NetworkDigest({str(name): part for name, part in named if isinstance(part, bytes)})


def reply_to_question(message: Message, node: TaskNode) -> Message:
    """Answer ``query.ask`` on a node."""
    tensors = tensors_from_record(message.content.array_records["tensors"])
    point = tensors["point"]
    vectors = tensors.get("vectors", point.new_empty(0, len(point)))
    header = header_bytes(message, "question")
    state = {}
    if "state" in message.content.array_records:
        state = tensors_from_record(message.content.array_records["state"])
    answer = node.answer(decode_question(header, point, vectors, state))
    content = RecordDict(
        {
            "header": ConfigRecord({"answer": encode_answer(answer)}),
            "tensors": tensors_to_record(answer.values),
        }
    )
    return Message(content, reply_to=message)


def reply_with_failure(message: Message, number: int, error: Exception) -> Message:
    """Answer any message with what of an error may leave the node."""
    failure = ConfigRecord(
        {"node": number, "kind": type(error).__name__, "message": safe_message(error)}
    )
    return Message(RecordDict({"failure": failure}), reply_to=message)


def raise_failure(who: str, reply: Message) -> None:
    """Raise what a reply reports.

    Args:
        who: The sender, as far as the server knows; a failure record names its node itself.
        reply: Any reply.

    Raises:
        NodeFailedError: Flower or the node reports a failure; the node's own class where that
            blames the input.
    """
    if reply.has_error():
        raise NodeFailedError(f"{who}: Flower reports error {reply.error.code}; see the node's log")
    if "failure" in reply.content:
        failure = reply.content.config_records["failure"]
        number = int(config_number(failure, "node"))
        error = node_failure(number, str(failure["kind"]), str(failure["message"]))
        raise error


def header_bytes(message: Message, name: str) -> bytes:
    """Return the protobuf header of a message.

    Raises:
        ValueError: It is of another type.
    """
    header = message.content.config_records["header"][name]
    if not isinstance(header, bytes):
        raise ValueError(f"header {name!r} is {type(header).__name__}, not bytes")
    return header


def config_number(config: ConfigRecord, key: str) -> float:
    """Return a number of a config record.

    Raises:
        ValueError: It is of another type.
    """
    value = config[key]
    if not isinstance(value, int | float):
        raise ValueError(f"config {key!r} is {type(value).__name__}, not a number")
    return value


def tensors_to_record(tensors: Mapping[str, Tensor] | Mapping[Part, Tensor]) -> ArrayRecord:
    """Pack tensors for a message."""
    return ArrayRecord(
        {str(name): Array(tensor.detach().cpu().numpy()) for name, tensor in tensors.items()}
    )


def tensors_from_record(record: ArrayRecord) -> dict[str, Tensor]:
    """Unpack tensors from a message.

    They are copied into memory that torch allocates: the receiver may write to them, and they are
    aligned. On other memory the last bits of a matrix product depend on where it happens to lie.

    Returns:
        The tensors by name.
    """
    return {str(name): torch.tensor(array.numpy()) for name, array in record.items()}


def _payload(message: Message) -> int:
    if message.has_error():
        return 0
    return sum(
        _config_bytes(record) if isinstance(record, ConfigRecord) else record.count_bytes()
        for record in message.content.values()
    )


def _config_bytes(record: ConfigRecord) -> int:
    """Return what a record takes; Flower's own count fails on empty texts and lists."""
    total = 0
    for key, value in record.items():
        values = value if isinstance(value, list) else [value]
        total += len(key) + sum(len(v) if isinstance(v, str | bytes) else 8 for v in values)
    return total
