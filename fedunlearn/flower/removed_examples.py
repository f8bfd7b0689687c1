"""What nodes are sent about removals that is no question: tombstones, and what to leave out.

Flower messages of the types ``query.remove`` (record tombstones, for good) and ``query.exclude``
(leave examples out of training until they are removed, or until that is given up).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flwr.app import ConfigRecord, Message, RecordDict

from fedunlearn.errors import MissingAnswerError
from fedunlearn.flower.messages import raise_failure
from fedunlearn.flower.metered_grid import MeteredGrid
from fedunlearn.flower.records import config_number
from fedunlearn.node.node import TaskNode
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.questions.wire import decode_forget_set, encode_forget_set
from fedunlearn.rpc.v1 import session_pb2 as pb

REMOVE = "query.remove"
EXCLUDE = "query.exclude"
RULE = "removal"


def record_tombstones(
    grid: MeteredGrid,
    addresses: Mapping[int, int],
    deletion: str,
    forget: ForgetSet,
    nodes: Sequence[int],
    *,
    deadline_s: float,
) -> dict[int, int]:
    """Have nodes record tombstones for what a deletion removed: one round.

    Args:
        grid: The grid.
        addresses: Flower node id of each node.
        deletion: Its id.
        forget: What it removed.
        nodes: Which nodes must do so.
        deadline_s: Seconds to wait.

    Returns:
        How many examples each node has recorded, durably.

    Raises:
        MissingAnswerError: A node did not confirm it.
    """
    return _send(grid, addresses, REMOVE, deletion, forget, nodes, deadline_s)


def exclude(
    grid: MeteredGrid,
    addresses: Mapping[int, int],
    forget: ForgetSet,
    nodes: Sequence[int],
    *,
    deadline_s: float,
) -> dict[int, int]:
    """Have nodes leave a forget set out of training until it is removed: one round.

    Args:
        grid: The grid.
        addresses: Flower node id of each node.
        forget: What is being removed; of no nodes to leave nothing out any more.
        nodes: Which nodes must do so.
        deadline_s: Seconds to wait.

    Returns:
        How many examples each node leaves out.

    Raises:
        MissingAnswerError: A node did not confirm it.
    """
    return _send(grid, addresses, EXCLUDE, "", forget, nodes, deadline_s)


def _send(
    grid: MeteredGrid,
    addresses: Mapping[int, int],
    kind: str,
    deletion: str,
    forget: ForgetSet,
    nodes: Sequence[int],
    deadline_s: float,
) -> dict[int, int]:
    rule = encode_forget_set(forget).SerializeToString(deterministic=True)
    messages = [
        Message(
            RecordDict(
                {RULE: ConfigRecord({"deletion": deletion, "forget": rule, "number": node})}
            ),
            addresses[node],
            kind,
            ttl=deadline_s,
        )
        for node in nodes
    ]
    numbers = {addresses[node]: node for node in nodes}
    confirmed: dict[int, int] = {}
    for reply in grid.exchange(messages, deadline_s):
        node = numbers[reply.metadata.src_node_id]
        raise_failure(f"node {node}", reply)
        confirmed[node] = int(config_number(reply.content.config_records[RULE], "examples"))
    if missing := sorted(set(nodes) - set(confirmed)):
        what = f"deletion {deletion}: " if deletion else ""
        raise MissingAnswerError(
            f"{what}node {', '.join(map(str, missing))} did not confirm within {deadline_s:g} s "
            "that the examples are out of use; it is asked again",
            nodes=missing,
        )
    return confirmed


def rule_in(message: Message) -> tuple[str, ForgetSet]:
    """Return the deletion and the forget set that a message is about."""
    header = message.content.config_records[RULE]
    rule = header["forget"]
    assert isinstance(rule, bytes)  # written by _send
    return str(header["deletion"]), decode_forget_set(pb.ForgetSet.FromString(rule))


def confirm(message: Message, examples: int) -> Message:
    """Confirm that so many examples are out of use."""
    return Message(RecordDict({RULE: ConfigRecord({"examples": examples})}), reply_to=message)


def reply_to_remove(message: Message, node: TaskNode) -> Message:
    """Answer ``query.remove`` on a node, once its list is stored."""
    deletion, forget = rule_in(message)
    return confirm(message, node.record_tombstones(deletion, forget))
