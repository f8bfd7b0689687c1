"""A node's part in a session: connect out, answer until the stream ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from queue import SimpleQueue

import grpc
import torch

from fedunlearn.addresses import proxy_option
from fedunlearn.errors import FederationError, NodeLostError, UnreachableError
from fedunlearn.model_state import ModelState
from fedunlearn.node.safe_message import safe_message
from fedunlearn.questions.chunks import (
    STATE,
    Assembly,
    announce,
    as_payload,
    chunk_of,
    cut,
    wire_bytes,
)
from fedunlearn.questions.invitation import (
    ATTEND,
    BEARER,
    OPTIONS,
    SERVICE,
    TOKEN_KEY,
    Invitation,
)
from fedunlearn.questions.question import Answer, Node, Question
from fedunlearn.questions.wire import answer_message, read_question
from fedunlearn.rpc.v1 import session_pb2 as pb

# Bytes of one question; a basis of a hundred directions of eleven million floats.
MAX_QUESTION = 2**32

REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT)

Frames = Iterable[bytes]


def attend(
    node: Node,
    invitation: Invitation,
    *,
    connect_s: float,
    payload: torch.dtype | None = None,
    max_question: int = MAX_QUESTION,
) -> int:
    """Join a session and answer its questions until the job ends.

    Args:
        node: Answers.
        invitation: Where to, and the token.
        connect_s: Seconds until the endpoint counts as unreachable.
        payload: bfloat16 to halve the bytes of gradients and products; None for their own dtype.
        max_question: Bytes; larger ones end the session.

    Returns:
        How many questions were answered.

    Raises:
        UnreachableError: No connection came about.
        FederationError: The server refused the token, or sent what no server sends.
        NodeLostError: The connection broke before the job ended.
    """
    credentials = grpc.ssl_channel_credentials(invitation.certificate)
    options = [*OPTIONS, proxy_option(invitation.address)]
    channel = grpc.secure_channel(
        invitation.address, credentials, options, compression=grpc.Compression.NoCompression
    )
    with channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=connect_s)
        except grpc.FutureTimeoutError:
            raise UnreachableError(
                f"node {invitation.node}: {invitation.address} cannot be reached within "
                f"{connect_s:g} s; open the port, or set the address that nodes can reach",
                nodes=(invitation.node,),
            ) from None
        replies = _Replies()
        call = channel.stream_stream(f"/{SERVICE.full_name}/{ATTEND.name}")(
            iter(replies), metadata=((TOKEN_KEY, BEARER + invitation.token),)
        )
        try:
            return _serve(node, call, replies, payload, max_question)
        except grpc.RpcError as error:
            if error.code() in REFUSALS:
                raise FederationError(
                    f"session: the server ended it: {error.details()}", nodes=(invitation.node,)
                ) from None
            raise NodeLostError(
                f"node {invitation.node}: the session broke ({error.code().name})",
                nodes=(invitation.node,),
            ) from None
        finally:
            replies.close()
            call.cancel()


class _Replies:
    """What the node says; gRPC takes a frame only when the one before is on its way."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Frames | None] = SimpleQueue()

    def put(self, frames: Frames) -> None:
        self._queue.put(frames)

    def close(self) -> None:
        self._queue.put(None)

    def __iter__(self) -> Iterator[bytes]:
        while (frames := self._queue.get()) is not None:
            yield from frames


def _serve(
    node: Node, call: Iterator[bytes], replies: _Replies, payload: torch.dtype | None, limit: int
) -> int:
    answered, before, held = 0, None, ModelState()
    for frame in call:
        header = pb.AttendResponse.FromString(frame).question
        if header.number == 0:
            raise FederationError("session: the server sent a frame that is no question")
        if sum(wire_bytes(tensor) for tensor in header.tensors) > limit:
            raise FederationError(f"session: the server asked for more than {limit} bytes")
        assembly = Assembly(list(header.tensors))
        while not assembly.complete:
            chunk = chunk_of(next(call))
            if chunk is None:
                raise FederationError("session: the server broke off within a question")
            assembly.take(chunk)
        try:
            tensors = assembly.tensors()
            point = tensors["point"]
            vectors = tensors.get("vectors", point.new_empty(0, len(point)))
            state = {n.removeprefix(STATE): t for n, t in tensors.items() if n.startswith(STATE)}
            held = ModelState(state) if state else held
            del assembly, tensors, state
            carried = held if header.question.state_sha256 else ModelState()
            question = before = read_question(
                header.question, point, vectors, before, state=carried
            )
            del point, vectors
            answer = node.answer(question)
            replies.put(answer_frames(header.number, question, answer, payload))
        except Exception as error:
            replies.put([_failure(header.number, error)])
        answered += 1
    return answered


def answer_frames(
    number: int, question: Question, answer: Answer, payload: torch.dtype | None
) -> Frames:
    """Return the frames of an answer, its chunks cut as they are taken.

    Losses and summaries are small and cross as they are.
    """
    sent = {
        str(part): as_payload(values, payload if question.ask.may_round else None)
        for part, values in answer.values.items()
    }
    header = pb.AnswerHeader(
        number=number,
        answer=answer_message(answer),
        tensors=[
            announce(str(part), values, sent[str(part)].dtype)
            for part, values in answer.values.items()
        ],
    )
    head = pb.AttendRequest(answer=header).SerializeToString()
    return chain([head], *(cut(tensor) for tensor in sent.values()))


def _failure(number: int, error: Exception) -> bytes:
    failure = pb.Failure(number=number, kind=type(error).__name__, message=safe_message(error))
    return pb.AttendRequest(failure=failure).SerializeToString()
