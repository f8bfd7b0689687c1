"""Headers of questions and answers as protobuf; the tensors travel beside them."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.message import DecodeError
from torch import Tensor

from fedunlearn.errors import BadAnswerError
from fedunlearn.federation.forget import ForgetSet, Kind, Part
from fedunlearn.federation.summary import Answer, Gradient, Losses, Products, Question, Sample
from fedunlearn.risk.products import Curvature
from fedunlearn.rpc.v1 import session_pb2 as pb

_PARTS = {Part.RETAIN: pb.PART_RETAIN, Part.FORGET: pb.PART_FORGET}
_PARTS_BACK = {number: part for part, number in _PARTS.items()}
_CURVATURES = {Curvature.GGN: pb.CURVATURE_GGN, Curvature.HESSIAN: pb.CURVATURE_HESSIAN}
_CURVATURES_BACK = {number: curvature for curvature, number in _CURVATURES.items()}


def encode_forget_set(forget: ForgetSet) -> pb.ForgetSet:
    """Return a forget set as a message."""
    match forget.kind:
        case Kind.NODE:
            return pb.ForgetSet(nodes=pb.ForgetSet.Nodes(nodes=sorted(forget.nodes)))
        case Kind.SAMPLES:
            return pb.ForgetSet(
                samples=pb.ForgetSet.Samples(fraction=forget.fraction, seed=forget.seed)
            )
        case Kind.CLASS:
            return pb.ForgetSet(label=pb.ForgetSet.Label(label=forget.label))


def decode_forget_set(message: pb.ForgetSet) -> ForgetSet:
    """Read a forget set.

    Returns:
        The rule.

    Raises:
        ValueError: The message names no kind.
    """
    match message.WhichOneof("kind"):
        case "nodes":
            return ForgetSet.of_nodes(*message.nodes.nodes)
        case "samples":
            return ForgetSet.of_samples(message.samples.fraction, message.samples.seed)
        case "label":
            return ForgetSet.of_class(message.label.label)
    raise ValueError("forget set of an unknown kind")


def encode_question(question: Question) -> bytes:
    """Return a question's header."""
    header = pb.Question(
        job=question.job,
        round=question.round,
        model_sha256=question.model_digest,
        vectors_sha256=question.vectors_digest,
        forget=encode_forget_set(question.forget),
        parts=[_PARTS[part] for part in question.parts],
    )
    match question.ask:
        case Gradient():
            header.gradient.SetInParent()
        case Products(curvature=curvature):
            header.products.curvature = _CURVATURES[curvature]
        case Losses():
            header.losses.SetInParent()
    if question.sample is not None:
        header.sample.share = question.sample.share
        header.sample.seed = question.sample.seed
    return header.SerializeToString()


def decode_question(header: bytes, point: Tensor, vectors: Tensor) -> Question:
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
    ask: Gradient | Products | Losses
    match message.WhichOneof("kind"):
        case "gradient":
            ask = Gradient()
        case "products" if message.products.curvature in _CURVATURES_BACK:
            ask = Products(_CURVATURES_BACK[message.products.curvature])
        case "losses":
            ask = Losses()
        case _:
            raise ValueError("question of an unknown kind")
    question = Question(
        job=message.job,
        round=message.round,
        forget=decode_forget_set(message.forget),
        parts=tuple(_PARTS_BACK[part] for part in message.parts),
        point=point,
        ask=ask,
        vectors=vectors,
        sample=_decode_sample(message),
    )
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
    return pb.Answer(
        job=answer.job,
        round=answer.round,
        model_sha256=answer.model_digest,
        vectors_sha256=answer.vectors_digest,
        counts=[
            pb.Answer.Count(part=_PARTS[part], examples=count)
            for part, count in answer.counts.items()
        ],
    ).SerializeToString()


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
    )
