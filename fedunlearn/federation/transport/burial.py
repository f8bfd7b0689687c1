"""Telling nodes what was removed for good, as Flower messages of the type ``query.bury``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flwr.app import ConfigRecord, Message, RecordDict

from fedunlearn.errors import MissingAnswerError
from fedunlearn.federation.transport.messages import MeteredGrid, config_number, raise_failure
from fedunlearn.node.node import TaskNode
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.questions.wire import decode_forget_set, encode_forget_set
from fedunlearn.rpc.v1 import session_pb2 as pb

BURY = "query.bury"


def bury(
    grid: MeteredGrid,
    addresses: Mapping[int, int],
    deletion: str,
    forget: ForgetSet,
    nodes: Sequence[int],
    *,
    deadline_s: float,
) -> dict[int, int]:
    """Have nodes put on their lists what a deletion removed: one round.

    Args:
        grid: The grid.
        addresses: Flower node id of each node.
        deletion: Its id.
        forget: What it removed.
        nodes: Who must do so.
        deadline_s: Seconds to wait.

    Returns:
        How many examples each node has buried, durably.

    Raises:
        MissingAnswerError: A node did not say that it has.
    """
    rule = encode_forget_set(forget).SerializeToString(deterministic=True)
    content = RecordDict({"burial": ConfigRecord({"deletion": deletion, "forget": rule})})
    messages = [Message(content, addresses[node], BURY, ttl=deadline_s) for node in nodes]
    numbers = {addresses[node]: node for node in nodes}
    buried: dict[int, int] = {}
    for reply in grid.exchange(messages, deadline_s):
        node = numbers[reply.metadata.src_node_id]
        raise_failure(f"node {node}", reply)
        buried[node] = int(config_number(reply.content.config_records["burial"], "examples"))
    if missing := sorted(set(nodes) - set(buried)):
        raise MissingAnswerError(
            f"deletion {deletion}: node {', '.join(map(str, missing))} did not confirm within "
            f"{deadline_s:g} s that the examples are out of use; it is asked again",
            nodes=missing,
        )
    return buried


def reply_to_bury(message: Message, node: TaskNode) -> Message:
    """Answer ``query.bury`` on a node, once its list is on the disk."""
    header = message.content.config_records["burial"]
    rule = header["forget"]
    assert isinstance(rule, bytes)  # written by bury
    forget = decode_forget_set(pb.ForgetSet.FromString(rule))
    examples = node.bury(str(header["deletion"]), forget)
    return Message(RecordDict({"burial": ConfigRecord({"examples": examples})}), reply_to=message)
