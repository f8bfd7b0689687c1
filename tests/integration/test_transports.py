"""One suite over every transport: same answers, same counts, same errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from fedunlearn.errors import EmptyNodeError, NodeFailedError, NonFiniteError, NotDeterministicError
from fedunlearn.federation.objective import FederatedObjective
from fedunlearn.federation.transport.base import Transport
from fedunlearn.progress import Silent
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.kinds import (
    PRODUCT_COST,
    Ask,
    Evaluations,
    Gradient,
    GroupGradients,
    Losses,
    Products,
    Signs,
    Summaries,
)
from fedunlearn.questions.question import Answer, Question
from fedunlearn.risk.products import Curvature
from fedunlearn.risk.task import Examples
from tests.federations import TRANSPORTS, BrokenTask, Reach, TinyTask, weights_of
from tests.removals import mean_objective, pooled

NODES = 4
KINDS = {
    "node": ForgetSet.of_nodes(2),
    "nodes": ForgetSet.of_nodes(0, 3),
    "samples": ForgetSet.of_samples(0.25, seed=3),
    "class": ForgetSet.of_class(1),
}


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def objective_over(reach: Reach, forget: ForgetSet, decay: float = 0.0) -> FederatedObjective:
    return FederatedObjective(
        reach.transport,
        reach.nodes,
        forget,
        weight_decay=decay,
        meters=reach.meters,
        progress=Silent(),
        deadline_s=30.0,
    )


def means_over_all(forget: ForgetSet, decay: float) -> dict[Part, Callable[[Tensor], Tensor]]:
    task = TinyTask()
    return {
        part: mean_objective(task, pooled(task, range(NODES), forget, part), decay) for part in Part
    }


@pytest.mark.parametrize("kind", KINDS)
def test_rounds_give_what_the_pooled_data_would(transport: str, kind: str) -> None:
    task, forget, decay = TinyTask(), KINDS[kind], 1e-2
    weights = weights_of(task)
    whole = means_over_all(forget, decay)
    objective = objective_over(TRANSPORTS[transport](task, NODES), forget, decay)

    gradients = objective.gradients(weights)
    for part, mean in ((Part.RETAIN, gradients.retain), (Part.FORGET, gradients.forget)):
        torch.testing.assert_close(mean, torch.func.grad(whole[part])(weights))
    torch.testing.assert_close(objective.gradient(weights), gradients.retain)

    vectors = torch.randn(len(weights), 3, dtype=torch.float64)
    hessian = torch.func.hessian(whole[Part.RETAIN])(weights)
    operator = objective.curvature(weights, Curvature.HESSIAN)
    torch.testing.assert_close(operator.matmat(vectors), hessian @ vectors)

    steps = 0.1 * vectors.T
    wanted = torch.stack([whole[Part.RETAIN](p) for p in (weights, *(weights + steps))])
    torch.testing.assert_close(objective.losses(weights, steps), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_losses_are_those_of_the_pooled_data_and_all_of_the_regulariser(
    transport: str, dtype: torch.dtype
) -> None:
    task, forget, decay = TinyTask(dtype), KINDS["class"], 7.0
    weights = weights_of(task)
    steps = torch.randn(4, len(weights), generator=torch.Generator().manual_seed(1)).to(dtype)
    steps[3] = 0.0
    reach = TRANSPORTS[transport](task, NODES)
    bare, found = (
        objective_over(reach, forget, factor).losses(weights, steps) for factor in (0.0, decay)
    )
    assert found.dtype == torch.float64 and found.shape == (5,)
    mean = means_over_all(forget, 0.0)[Part.RETAIN]
    points = torch.cat([weights[None], weights + steps]).double()
    rounding = 20 * torch.finfo(dtype).eps
    expected = torch.stack([mean(point) for point in points])
    torch.testing.assert_close(bare, expected, rtol=rounding, atol=0.0)
    # Exact whatever the dtype: of the step as it is, not of the rounded point.
    ends = torch.cat([weights.double()[None], weights.double() + steps.double()])
    torch.testing.assert_close(
        found - bare, 0.5 * decay * ends.square().sum(1), rtol=1e-13, atol=0.0
    )
    assert found[4] == pytest.approx(float(found[0]), rel=1e-15)
    alone = objective_over(reach, forget, decay).losses(weights, steps[:0])
    assert torch.equal(alone, found[:1])


class HeldOutTask(TinyTask):
    """Some nodes hold examples out of training."""

    def held_out(self, node: int) -> Examples | None:
        return self.data(30 + node) if node != 1 else None


@pytest.mark.parametrize("kind", KINDS)
def test_evaluations_are_those_of_plain_torch(transport: str, kind: str) -> None:
    task, forget = HeldOutTask(), KINDS[kind]
    weights = weights_of(task)
    steps = torch.randn(2, len(weights), generator=torch.Generator().manual_seed(5)).double()
    objective = objective_over(TRANSPORTS[transport](task, NODES), forget, decay=1e-2)
    found = objective.evaluate(weights, steps, tuple(Part))
    assert set(found) == set(Part)
    for part, models in found.items():
        inputs, targets = pooled(task, range(NODES), forget, part)
        asked = [n for n in range(NODES) if len(forget.select(part, n, task.data(n)[1]))]
        aside = [task.held_out(n) for n in asked]
        held = [one for one in aside if one is not None]
        others = torch.cat([x for x, _ in held]), torch.cat([y for _, y in held])
        leaves = others[1] == 1 if kind == "class" else torch.zeros(len(others[1])).bool()
        belongs = leaves if part is Part.FORGET else ~leaves
        for number, one in enumerate(models):
            model = task.model()
            point = weights if number == 0 else weights + steps[number - 1]
            torch.nn.utils.vector_to_parameters(point, model.parameters())
            for evaluation, (x, y) in (
                (one.own, (inputs, targets)),
                (one.held_out, (others[0][belongs], others[1][belongs])),
            ):
                if not len(y):
                    assert evaluation is None
                    continue
                with torch.no_grad():
                    outputs = model(x)
                assert evaluation is not None
                assert evaluation.examples == len(y)
                assert evaluation.loss == pytest.approx(float(task.loss(outputs, y)))
                right = float((outputs.argmax(1) == y).double().mean())
                assert evaluation.accuracy == pytest.approx(right)


class RecordingTransport:
    """Hears whom each question goes to."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.heard: list[tuple[str, tuple[int, ...]]] = []

    def ask(
        self, question: Question, nodes: Sequence[int], /, *, deadline_s: float
    ) -> Iterator[Answer]:
        self.heard.append((type(question.ask).__name__, tuple(nodes)))
        yield from self.transport.ask(question, nodes, deadline_s=deadline_s)


def test_who_leaves_is_asked_once_for_its_gradient_and_for_nothing_else(transport: str) -> None:
    reach = TRANSPORTS[transport](TinyTask(), NODES)
    reach.transport = listening = RecordingTransport(reach.transport)
    objective = objective_over(reach, ForgetSet.of_nodes(2))
    weights = weights_of(TinyTask())
    objective.gradients(weights)
    objective.curvature(weights, Curvature.GGN).matmat(weights[:, None])
    objective.losses(weights, weights[None])
    objective.gradient(weights)
    stay = (0, 1, 3)
    assert listening.heard == [
        ("Gradient", (0, 1, 2, 3)),
        ("Products", stay),
        ("Losses", stay),
        ("Gradient", stay),
    ]


def test_rounds_bytes_and_compute_are_counted(transport: str) -> None:
    task = TinyTask()
    reach = TRANSPORTS[transport](task, NODES)
    weights = weights_of(task)
    forget = ForgetSet.of_nodes(2)
    with reach.meters.measure() as meter:
        objective = objective_over(reach, forget)
        objective.gradients(weights)
        objective.products(weights, torch.randn(2, len(weights)).double(), Curvature.GGN)
    retained = objective.cohort.examples(Part.RETAIN)
    everyone = retained + objective.cohort.examples(Part.FORGET)
    cost = meter.cost(retained)
    size = 8 * len(weights)
    assert cost.rounds == 2
    # gradients: the point down, one part up, for 4 nodes; products: 3 down, 2 up, for 3 nodes
    assert 4 * size + 9 * size <= cost.bytes_down < 4 * size + 9 * size + 7 * 2000
    assert 4 * size + 6 * size <= cost.bytes_up < 4 * size + 6 * size + 7 * 2000
    assert cost.gradient_equivalents == pytest.approx(
        everyone / retained + 2 * PRODUCT_COST[Curvature.GGN]
    )


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ("empty", EmptyNodeError, "node 1: data: no examples"),
        ("nan", NonFiniteError, "node 1: data: inputs"),
        ("dropout", NotDeterministicError, "use weight decay instead"),
        ("batchnorm", NotDeterministicError, "use GroupNorm instead"),
        ("raises", NodeFailedError, "node 1: KeyError in the task's own code"),
    ],
)
def test_failures_name_the_node_and_keep_its_data(
    transport: str, how: str, error: type[Exception], says: str
) -> None:
    task = BrokenTask(how)
    with pytest.raises(error) as caught:
        objective = objective_over(TRANSPORTS[transport](task, NODES), ForgetSet.of_nodes(0))
        objective.gradients(weights_of(TinyTask()))
    assert says in str(caught.value)
    assert BrokenTask.SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nan_weights_are_refused_before_anyone_is_asked(transport: str) -> None:
    reach = TRANSPORTS[transport](TinyTask(), NODES)
    weights = weights_of(TinyTask())
    weights[3] = float("nan")
    with reach.meters.measure() as meter, pytest.raises(NonFiniteError, match="model's weights"):
        objective_over(reach, ForgetSet.of_nodes(0)).gradients(weights)
    assert meter.rounds == 0


def test_answers_echo_what_was_asked(transport: str) -> None:
    task = TinyTask()
    reach = TRANSPORTS[transport](task, NODES)
    weights = weights_of(task)
    vectors = torch.randn(2, len(weights)).double()
    asks: tuple[tuple[Ask, Tensor], ...] = (
        (Gradient(), vectors[:0]),
        (Products(Curvature.GGN), vectors),
        (Losses(), vectors),
        (Evaluations(), vectors),
        (GroupGradients(by_label=False), vectors[:0]),
        (GroupGradients(by_label=True, signs=Signs(6, seed=1)), vectors[:0]),
        (Summaries(Curvature.HESSIAN, by_label=False), vectors),
    )
    for ask, rows in asks:
        question = Question("job", 7, KINDS["samples"], tuple(Part), weights, ask, rows)
        answers = {a.node: a for a in reach.transport.ask(question, (1, 3), deadline_s=30.0)}
        assert set(answers) == {1, 3}
        for node, answer in answers.items():
            assert (answer.job, answer.round) == ("job", 7)
            assert answer.model_digest == question.model_digest
            assert answer.vectors_digest == question.vectors_digest
            assert sum(answer.counts.values()) == len(task.data(node)[1])
            assert all(v.shape == question.answer_shape() for v in answer.values.values())
