"""The answers of a node to Flower messages.

A client never raises an exception, since Flower would send its text to the server. It answers with
a record named ``failure`` instead.
"""

from __future__ import annotations

from flwr.app import ConfigRecord, Message, RecordDict

from fedunlearn.flower.records import (
    enrolment_record,
    header_bytes,
    tensors_from_record,
    tensors_to_record,
)
from fedunlearn.node.node import TaskNode
from fedunlearn.node.safe_message import safe_message
from fedunlearn.questions.wire import decode_question, encode_answer


def reply_to_enrol(message: Message, node: TaskNode) -> Message:
    """Answer ``query.enrol`` on a node."""
    return Message(RecordDict({"header": enrolment_record(node.enrol())}), reply_to=message)


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


def reply_with_failure(message: Message, number: int, error: Exception, name: str = "") -> Message:
    """Answer a message with the part of an error that may leave the node.

    Args:
        message: The message that cannot be answered.
        number: Number of the node; -1 where it has none yet.
        error: The cause.
        name: Name of a node without a number.

    Returns:
        The reply.
    """
    failure = ConfigRecord(
        {"node": number, "kind": type(error).__name__, "message": safe_message(error)}
    )
    if name:
        failure["name"] = name
    return Message(RecordDict({"failure": failure}), reply_to=message)
