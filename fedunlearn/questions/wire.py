"""Headers of questions and answers as protobuf; the tensors travel beside them."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.message import DecodeError
from torch import Tensor

from fedunlearn.errors import BadAnswerError, ForgetSetError
from fedunlearn.model_state import ModelState
from fedunlearn.questions.forget import ForgetSet, Part, read_forget_set
from fedunlearn.questions.kinds import read_kind
from fedunlearn.questions.question import Answer, Question, Sample
from fedunlearn.rpc.v1 import session_pb2 as pb

LARGEST_BATCH = 2**32 - 1

_PARTS = {Part.RETAIN: pb.PART_RETAIN, Part.FORGET: pb.PART_FORGET}
_PARTS_BACK = {number: part for part, number in _PARTS.items()}


def encode_forget_set(forget: ForgetSet) -> pb.ForgetSet:
    """Return a forget set as a message.

    Raises:
        ForgetSetError: A label, node or seed is negative or too large to be sent.
    """
    message = pb.ForgetSet(after=[encode_forget_set(earlier) for earlier in forget.after])
    try:
        forget.write(message)
    except ValueError as error:
        raise ForgetSetError(
            f"forget: {forget} cannot be sent to nodes; labels, nodes and seeds are whole numbers "
            "from 0 on"
        ) from error
    return message


def decode_forget_set(message: pb.ForgetSet) -> ForgetSet:
    """Read a forget set.

    Returns:
        The rule.

    Raises:
        ValueError: The message names no kind.
    """
    forget = read_forget_set(message)
    return forget.following(decode_forget_set(earlier) for earlier in message.after)


def encode_question(question: Question) -> bytes:
    """Return a question's header."""
    return question_message(question).SerializeToString()


def question_message(question: Question) -> pb.Question:
    """Return a question's header as a message."""
    header = pb.Question(
        job=question.job,
        round=question.round,
        model_sha256=question.model_digest,
        vectors_sha256=question.vectors_digest,
        state_sha256=question.carried.digest,
        forget=encode_forget_set(question.forget),
        parts=[_PARTS[part] for part in question.parts],
    )
    question.ask.write(header)
    if question.batch_size is not None:
        # No node has so many examples: it takes one step, as with a larger size.
        header.batch_size = min(question.batch_size, LARGEST_BATCH)
    if question.sample is not None:
        header.sample.share = question.sample.share
        header.sample.seed = question.sample.seed
    return header


def decode_question(
    header: bytes, point: Tensor, vectors: Tensor, state: Mapping[str, Tensor] | None = None
) -> Question:
    """Put a question together from its header and the tensors beside it.

    Returns:
        The question, its digests checked.

    Raises:
        ValueError: The header does not parse, asks for something unknown, or the tensors are not
            those that it names.
    """
    try:
        message = pb.Question.FromString(header)
    except DecodeError as error:
        raise ValueError("question header does not parse") from error
    return read_question(message, point, vectors, state=ModelState(state))


def read_question(
    message: pb.Question,
    point: Tensor,
    vectors: Tensor,
    before: Question | None = None,
    *,
    state: ModelState | None = None,
) -> Question:
    """Put a question together from its header as a message and the tensors beside it.

    Args:
        message: The header.
        point: The point (d,).
        vectors: The vectors (k, d).
        before: The question before, whose point is likely the same.
        state: Tensors of the model beside its trainable weights.

    Returns:
        The question, its digests checked.

    Raises:
        ValueError: The header asks for something unknown, or the tensors are not those that it
            names.
    """
    if not set(message.parts) <= set(_PARTS_BACK):
        raise ValueError("question about a part that does not exist")
    question = Question(
        job=message.job,
        round=message.round,
        forget=decode_forget_set(message.forget),
        parts=tuple(_PARTS_BACK[part] for part in message.parts),
        point=point,
        ask=read_kind(message),
        vectors=vectors,
        sample=_decode_sample(message),
        state=ModelState() if state is None else state,
        batch_size=message.batch_size or None,
    )
    if question.carried.digest != message.state_sha256:
        raise ValueError("the model's state is not the one that the question names")
    if before is not None:
        question = question.at_point_of(before)
    if question.model_digest != message.model_sha256:
        raise ValueError("the model's weights are not those that the question names")
    if question.vectors_digest != message.vectors_sha256:
        raise ValueError("the vectors are not those that the question names")
    return question


def _decode_sample(message: pb.Question) -> Sample | None:
    if not message.HasField("sample"):
        return None
    share = message.sample.share
    if not 0.0 < share <= 1.0:
        raise ValueError("sample of a share that is not in (0, 1]")
    return Sample(share, message.sample.seed)


def encode_answer(answer: Answer) -> bytes:
    """Return an answer's header."""
    return answer_message(answer).SerializeToString()


def answer_message(answer: Answer) -> pb.Answer:
    """Return an answer's header as a message."""
    return pb.Answer(
        job=answer.job,
        round=answer.round,
        model_sha256=answer.model_digest,
        vectors_sha256=answer.vectors_digest,
        counts=[
            pb.Answer.Count(part=_PARTS[part], examples=count)
            for part, count in answer.counts.items()
        ],
        labels=[
            pb.Answer.Labels(part=_PARTS[part], labels=labels)
            for part, labels in answer.labels.items()
        ],
    )


def decode_answer(node: int, header: bytes, values: Mapping[Part, Tensor]) -> Answer:
    """Put an answer together from its header and the tensors beside it.

    Returns:
        The answer, still to be checked against its question.

    Raises:
        BadAnswerError: The header does not parse.
    """
    try:
        message = pb.Answer.FromString(header)
    except DecodeError as error:
        raise BadAnswerError(f"node {node} answered with a header that does not parse") from error
    return read_answer(node, message, values)


def read_answer(node: int, message: pb.Answer, values: Mapping[Part, Tensor]) -> Answer:
    """Put an answer together from its header as a message and the tensors beside it.

    Returns:
        The answer, still to be checked against its question.
    """
    return Answer(
        node=node,
        job=message.job,
        round=message.round,
        model_digest=message.model_sha256,
        vectors_digest=message.vectors_sha256,
        counts={
            _PARTS_BACK[count.part]: count.examples
            for count in message.counts
            if count.part in _PARTS_BACK
        },
        values=values,
        labels={
            _PARTS_BACK[rows.part]: tuple(rows.labels)
            for rows in message.labels
            if rows.part in _PARTS_BACK
        },
    )
