"""Messages to nodes about removals that are not questions: tombstones and exclusions.

They are Flower messages of the types ``query.remove`` (record tombstones permanently) and
``query.exclude`` (exclude examples from training until they are removed, or until the removal is
abandoned).
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
    """Send tombstones for the forget set of a deletion to nodes: one round.

    Args:
        grid: The grid.
        addresses: Flower node id of each node.
        deletion: Id of the deletion.
        forget: The forget set of the deletion.
        nodes: The nodes that must record them.
        deadline_s: Seconds to wait.

    Returns:
        The number of examples that each node has recorded durably.

    Raises:
        MissingAnswerError: A node did not confirm.
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
    """Exclude a forget set from the training of nodes until it is removed: one round.

    Args:
        grid: The grid.
        addresses: Flower node id of each node.
        forget: The forget set; one that names no nodes ends all exclusions.
        nodes: The nodes that must exclude it.
        deadline_s: Seconds to wait.

    Returns:
        The number of examples that each node excludes.

    Raises:
        MissingAnswerError: A node did not confirm.
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
            "that the examples are out of use; the request is sent again",
            nodes=missing,
        )
    return confirmed


def rule_in(message: Message) -> tuple[str, ForgetSet]:
    """Return the deletion and the forget set of a message."""
    header = message.content.config_records[RULE]
    rule = header["forget"]
    assert isinstance(rule, bytes)  # written by _send
    return str(header["deletion"]), decode_forget_set(pb.ForgetSet.FromString(rule))


def confirm(message: Message, examples: int) -> Message:
    """Return a reply that confirms how many examples are out of use."""
    return Message(RecordDict({RULE: ConfigRecord({"examples": examples})}), reply_to=message)


def reply_to_remove(message: Message, node: TaskNode) -> Message:
    """Answer ``query.remove`` on a node, once its list is stored."""
    deletion, forget = rule_in(message)
    return confirm(message, node.record_tombstones(deletion, forget))
