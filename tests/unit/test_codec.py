"""Headers of questions and answers on the wire."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedunlearn.errors import BadAnswerError, ForgetSetError
from fedunlearn.questions.ask import Ask
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.heads import Head, HeadDerivatives, HeadLoss, HeadMoments
from fedunlearn.questions.kinds import (
    KINDS,
    Evaluations,
    Gradient,
    GroupGradients,
    Losses,
    Products,
    Signs,
    Statistics,
    Summaries,
)
from fedunlearn.questions.question import Answer, Question, Sample
from fedunlearn.questions.wire import (
    decode_answer,
    decode_question,
    encode_answer,
    encode_forget_set,
    encode_question,
)
from fedunlearn.risk.products import Curvature
from fedunlearn.rpc.v1 import session_pb2 as pb

ROOT = Path(__file__).parents[2]
POINT = torch.arange(5, dtype=torch.float32)
VECTORS = torch.eye(5)[:2]
ASKS: tuple[Ask, ...] = (
    Gradient(),
    Losses(),
    Evaluations(),
    Statistics(2, seed=0),
    Statistics(2**32 - 1, seed=2**64 - 1),
    *(Products(curvature) for curvature in Curvature),
    *(
        GroupGradients(by_label, signs)
        for by_label in (False, True)
        for signs in (None, Signs(1, seed=0), Signs(2**32 - 1, seed=2**64 - 1))
    ),
    *(Summaries(curvature, by_label) for curvature in Curvature for by_label in (False, True)),
    *(
        HeadMoments(Head(loss, outputs, bias, unit), by_label=bias)
        for loss in HeadLoss
        for outputs, bias, unit in ((5, False, False), (1, True, True))
    ),
    *(HeadDerivatives(Head(loss, 5, bias=False), loss is HeadLoss.SQUARED) for loss in HeadLoss),
)


def question_of(ask: Ask, sample: Sample | None = None) -> Question:
    none = isinstance(ask, Gradient | GroupGradients | Statistics | HeadMoments | HeadDerivatives)
    vectors = VECTORS[:0] if none else VECTORS
    return Question("job", 3, ForgetSet.of_class(2), (Part.RETAIN,), POINT, ask, vectors, sample)


@pytest.mark.parametrize("ask", ASKS, ids=str)
def test_questions_survive_the_wire(ask: Ask) -> None:
    question = question_of(ask)
    received = decode_question(encode_question(question), POINT.clone(), question.vectors.clone())
    for field in ("job", "round", "forget", "parts", "ask", "model_digest", "vectors_digest"):
        assert getattr(received, field) == getattr(question, field)


@pytest.mark.parametrize(
    "sample",
    [None, Sample(1.0, seed=0), Sample(0.1, seed=2**64 - 1), Sample(5e-324, seed=3)],
    ids=str,
)
@pytest.mark.parametrize("ask", ASKS, ids=str)
def test_samples_survive_the_wire(ask: Ask, sample: Sample | None) -> None:
    question = question_of(ask, sample)
    received = decode_question(encode_question(question), POINT.clone(), question.vectors.clone())
    assert received.sample == sample
    assert received.ask == ask


def test_every_kind_is_registered_and_among_these() -> None:
    assert {type(ask) for ask in ASKS} == set(KINDS.values())
    fields = pb.Question.DESCRIPTOR.oneofs_by_name["kind"].fields
    assert set(KINDS) == {field.name for field in fields}


def test_a_state_survives_the_wire_and_is_part_of_the_model() -> None:
    bare = question_of(Gradient())
    state = {"b": torch.tensor(7), "a": torch.ones(3, dtype=torch.bfloat16)}
    question = replace(bare, state=state)
    header = encode_question(question)
    received = decode_question(header, POINT, VECTORS[:0], dict(question.carried))
    assert received.model_digest == question.model_digest != bare.model_digest
    assert received.carried == question.carried
    assert encode_question(replace(bare, state={})) == encode_question(bare)
    for other in (None, {**state, "b": torch.tensor(8)}, {"a": state["a"]}):
        with pytest.raises(ValueError, match="state is not the one"):
            decode_question(header, POINT, VECTORS[:0], other)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.0 + 1e-15, math.inf, math.nan])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    header = encode_question(question_of(Gradient(), Sample(share, seed=1)))
    with pytest.raises(ValueError, match=r"share that is not in \(0, 1\]"):
        decode_question(header, POINT, VECTORS[:0])


NONSENSE = {
    "products of no curvature": (pb.Question(products=pb.ProductsQuestion()), "unknown kind"),
    "summaries of no curvature": (pb.Question(summaries=pb.SummariesQuestion()), "unknown kind"),
    "summaries of an unknown curvature": (
        pb.Question(summaries=pb.SummariesQuestion(curvature=17)),  # type: ignore[arg-type]
        "unknown kind",
    ),
    "signs without columns": (
        pb.Question(group_gradients=pb.GroupGradientsQuestion(signs=pb.Signs(seed=1))),
        "signed sums without columns",
    ),
    "statistics of batches of one": (
        pb.Question(statistics=pb.StatisticsQuestion(batch_size=1)),
        "fewer than two examples",
    ),
    "nothing": (pb.Question(), "unknown kind"),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_is_refused(what: str) -> None:
    asked, says = NONSENSE[what]
    header = pb.Question.FromString(encode_question(question_of(Gradient())))
    header.ClearField("gradient")
    header.MergeFrom(asked)
    with pytest.raises(ValueError, match=says):
        decode_question(header.SerializeToString(), POINT, VECTORS[:0])


@pytest.mark.parametrize(
    "forget",
    [
        ForgetSet.of_class(-1),
        ForgetSet.of_class(2**32),
        ForgetSet.of_nodes(-1),
        ForgetSet.of_samples(0.5, seed=-1),
        ForgetSet.of_nodes(2).following([ForgetSet.of_class(-1)]),
    ],
    ids=repr,
)
def test_forget_sets_that_cannot_travel_are_refused(forget: ForgetSet) -> None:
    with pytest.raises(ForgetSetError, match="cannot be sent to nodes"):
        encode_forget_set(forget)


def test_other_tensors_than_the_header_names_are_refused() -> None:
    header = encode_question(question_of(Losses()))
    with pytest.raises(ValueError, match="weights"):
        decode_question(header, POINT + 1, VECTORS)
    with pytest.raises(ValueError, match="vectors"):
        decode_question(header, POINT, VECTORS * 2)
    with pytest.raises(ValueError, match="does not parse"):
        decode_question(b"\xff\xff\xff", POINT, VECTORS)
    with pytest.raises(ValueError, match="unknown kind"):
        decode_question(b"", POINT, VECTORS)


def test_answers_survive_the_wire() -> None:
    values = {Part.FORGET: VECTORS}
    counts = {Part.RETAIN: 0, Part.FORGET: 7}
    answer = Answer(4, "job", 3, b"m", b"v", counts, values)
    assert decode_answer(4, encode_answer(answer), values) == answer
    with pytest.raises(BadAnswerError, match="node 4"):
        decode_answer(4, b"\xff\xff\xff", values)


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {Part.RETAIN: ()},
        {Part.RETAIN: (0, 3, 2**63 - 1), Part.FORGET: (7,)},
    ],
    ids=str,
)
def test_labels_survive_the_wire(labels: dict[Part, tuple[int, ...]]) -> None:
    values = {part: VECTORS for part in labels}
    answer = Answer(4, "job", 3, b"m", b"", {Part.RETAIN: 9, Part.FORGET: 7}, values, labels)
    assert decode_answer(4, encode_answer(answer), values) == answer


def test_labels_of_parts_that_do_not_exist_are_passed_over() -> None:
    header = pb.Answer(labels=[pb.Answer.Labels(labels=[1])])
    assert decode_answer(4, header.SerializeToString(), {}).labels == {}


@pytest.mark.parametrize("name", ["session", "deletion"])
def test_generated_code_is_that_of_the_protos(tmp_path: Path, name: str) -> None:
    proto = f"fedunlearn/rpc/v1/{name}.proto"
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", "-Iprotos"),
            *(f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")),
            f"protos/{proto}",
        ],
        cwd=ROOT,
        check=True,
    )
    for suffix in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py"):
        file = proto.replace(".proto", suffix)
        assert (ROOT / file).read_text() == (tmp_path / file).read_text(), "run 'make protos'"
