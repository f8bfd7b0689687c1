"""Enrolment of the nodes of a user's app: each sends its name and its number of examples."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid

from fedunlearn.errors import BadAnswerError, FederationError, MissingAnswerError
from fedunlearn.flower.messages import ENROL, raise_failure
from fedunlearn.flower.metered_grid import POLL_S, MeteredGrid
from fedunlearn.flower.node_memory import NodeMemory, name_of
from fedunlearn.flower.records import config_number, enrolment_in, enrolment_record
from fedunlearn.flower.removed_examples import RULE
from fedunlearn.names import Names, in_order, is_name, listed, quoted
from fedunlearn.node.enrolment import Enrolment
from fedunlearn.node.node import TaskNode

CLIENT_RAISED = 2
_HEADERS = {"ask": "header", "remove": RULE, "exclude": RULE, "session": "session"}


@dataclass(frozen=True)
class OwnNode:
    """A node of a user's app, as it enrolled.

    Attributes:
        name: Name of the node in the federation; see ``name_of``.
        address: Flower's node id.
        enrolment: The enrolment that the node sent.
        kept: Whether its training code has called ``kept``.
        durable: Whether its records of removals outlast the run.
        augmented: Whether its data are augmented at random, in which case one draw was fixed.
        held_out: Whether it has held-out examples.
        batch_size: Batch size of its loader; None where it has no loader.
        classes: Number of classes of its labels; 0 where it has none or did not count them.
        key: The sha256 of its SuperNode's public key, hexadecimal; empty where it has none.
    """

    name: str
    address: int
    enrolment: Enrolment
    kept: bool
    durable: bool
    augmented: bool
    held_out: bool
    batch_size: int | None
    classes: int = 0
    key: str = ""


def number_in(message: Message, action: str) -> int:
    """Return the number that the server gives the node; -1 where it gives none."""
    record = message.content.config_records.get(_HEADERS.get(action, ""), ConfigRecord())
    number = record.get("node" if action == "session" else "number", -1)
    return number if isinstance(number, int) else -1


def reply_to_own_enrol(
    message: Message, node: TaskNode, memory: NodeMemory, context: Context
) -> Message:
    """Answer ``query.enrol`` on a node of a user's app."""
    request = message.content.config_records.get("header", ConfigRecord())
    sent = request.get("sent")
    node.expect(map(str, sent) if isinstance(sent, list) else ())
    header = enrolment_record(node.enrol())
    header["name"] = name_of(context)
    if not memory.left:
        memory.require_same_data(len(node.examples))
    header["kept"] = int(memory.kept)
    header["durable"] = int(memory.durable)
    header["augmented"] = int(not memory.left and node.examples.augmented)
    header["held-out"] = int(not memory.left and node.held_out is not None)
    header["batch-size"] = node.batch_size or 0
    header["classes"] = node.classes if request.get("classes") and not memory.left else 0
    return Message(RecordDict({"header": header}), reply_to=message)


def enrol_own(
    grid: MeteredGrid,
    *,
    sent: Sequence[str],
    least: int,
    deadline_s: float,
    refused: Collection[str] = (),
    with_classes: bool = False,
) -> list[OwnNode]:
    """Request the name and the examples of every connected node: one round.

    Args:
        grid: The grid.
        sent: Names of the tensors, besides the trainable parameters, whose values the server has.
        least: Number of nodes that must be connected.
        deadline_s: Seconds to wait for nodes, and for their answers.
        refused: Names of nodes that have left; their answers are ignored.
        with_classes: Whether nodes count the classes of their labels, for which they read all of
            their data.

    Returns:
        The nodes, ordered by name.

    Raises:
        MissingAnswerError: Fewer nodes are connected, or a node does not answer.
        FederationError: A node cannot answer, or two nodes have the same name.
    """
    end = time.monotonic() + deadline_s
    while len(addresses := sorted(grid.get_node_ids())) < least:
        grid.require_running()
        if time.monotonic() > end:
            raise MissingAnswerError(
                f"{len(addresses)} of {least} nodes are connected after {deadline_s:g} s; start "
                "the others"
            )
        time.sleep(POLL_S)
    if not addresses:
        raise MissingAnswerError("no node is connected; start the SuperNodes")
    keys = _keys(grid)
    content = RecordDict(
        {"header": ConfigRecord({"sent": list(sent), "classes": int(with_classes)})}
    )
    messages = [Message(content, one, ENROL, ttl=deadline_s) for one in addresses]
    found: dict[str, OwnNode] = {}
    missing = set(addresses)
    for reply in grid.exchange(messages, deadline_s):
        address = reply.metadata.src_node_id
        missing.discard(address)
        if reply.has_error() and reply.error.code == CLIENT_RAISED:
            raise FederationError(
                f"the node with Flower's id {address} does not answer query.enrol; let its "
                "client_app call unlearnable(app, ...), and give every node the same app"
            )
        raise_failure(f"the node with Flower's id {address}", reply)
        node = _node(address, reply.content.config_records["header"], keys.get(address, ""))
        if node.name in refused or node.enrolment.left:
            continue
        if node.name in found:
            raise FederationError(
                f"two nodes call themselves node {node.name}; give each SuperNode a name or "
                "partition-id of its own in its node config"
            )
        found[node.name] = node
    if missing:
        raise MissingAnswerError(
            f"{listed('node', map(str, sorted(missing)))} (Flower's ids) did not answer within "
            f"{deadline_s:g} s; see the logs of these SuperNodes"
        )
    return [found[name] for name in in_order(found)]


def _node(address: int, header: ConfigRecord, key: str) -> OwnNode:
    name = str(header["name"])
    if not is_name(name):
        raise BadAnswerError(
            f"the node with Flower's id {address} calls itself {quoted(name)}; a name is one "
            "printable line of at most 200 characters: name or partition-id of its node config"
        )
    return OwnNode(
        name=name,
        address=address,
        enrolment=enrolment_in(header),
        kept=bool(header["kept"]),
        durable=bool(header["durable"]),
        augmented=bool(header["augmented"]),
        held_out=bool(header["held-out"]),
        batch_size=int(config_number(header, "batch-size")) or None,
        classes=int(config_number(header, "classes")),
        key=key,
    )


def _keys(grid: Grid) -> dict[int, str]:
    """Return the sha256 of the public key of each node that has one, by Flower's node id."""
    keys = {}
    for info in grid.get_nodes():
        public = getattr(info, "public_key", b"")
        if public:
            keys[info.node_id] = hashlib.sha256(public).hexdigest()
    return keys


def numbered(nodes: list[OwnNode], known: Names | None = None) -> Mapping[int, OwnNode]:
    """Number nodes by their place among the known names, or in their own order.

    Args:
        nodes: The nodes, ordered by name.
        known: All names that have ever enrolled; None where the federation is new.

    Returns:
        The nodes by number.
    """
    if known is None:
        return dict(enumerate(nodes))
    return {known.place(node.name): node for node in nodes}
