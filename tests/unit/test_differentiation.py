"""Every kind of model is differentiated right, or refused: a wrong value never comes back."""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from fedunlearn.errors import (
    FedunlearnError,
    InputError,
    NoCurvatureError,
    NonFiniteError,
    OwnCodeError,
)
from fedunlearn.parameters import ParameterLayout, flatten, load
from fedunlearn.risk.local_rules import LocalPlan
from fedunlearn.risk.local_training import train_locally
from fedunlearn.risk.network import twice_differentiable
from fedunlearn.risk.objective import EmpiricalRisk
from fedunlearn.risk.products import Curvature
from tests.model_catalogue import ATTENTION, RECURRENT, SOUND
from tests.model_compositions import body, head
from tests.model_subjects import COUNT, Subject, function
from tests.unsound_models import UNSOUND, Refused

pytestmark = [
    pytest.mark.slow,
    # torch's own words on its older forms, which the catalogue has on purpose
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Lazy modules"),
    pytest.mark.filterwarnings("ignore:LSTM with projections"),
    pytest.mark.filterwarnings("ignore:enable_nested_tensor"),
    pytest.mark.filterwarnings("ignore:Using a target size"),
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad"),
    pytest.mark.filterwarnings("ignore:The given NumPy array is not writable"),
]
LAW = 1e-5
# Rounding of the dtype, in products of products.
ROUNDING = {torch.float32: 2e-4, torch.bfloat16: 0.15}


@dataclass(frozen=True)
class Reference:
    """Plain torch in float64, on a copy of the model, without anything of ours."""

    model: nn.Module
    subject: Subject
    inputs: Tensor
    targets: Tensor

    @classmethod
    def of(cls, subject: Subject, model: nn.Module, inputs: Tensor, targets: Tensor) -> Reference:
        model = copy.deepcopy(model).double()
        wide = (part.double() if part.is_floating_point() else part for part in (inputs, targets))
        return cls(model, subject, *wide)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def loss(self, outputs: Tensor) -> Tensor:
        return self.subject.loss(outputs, self.targets) * COUNT

    def derive(self, of: Tensor, *, graph: bool = False) -> Tensor:
        """Return the gradient of a scalar, flat."""
        parts = torch.autograd.grad(
            of, self.parameters, create_graph=graph, retain_graph=True, materialize_grads=True
        )
        return torch.cat([part.reshape(-1) for part in parts])

    def everything(self, row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradient, the Hessian product and the GGN product."""
        outputs = self.model(self.inputs)
        gradient = self.derive(self.loss(outputs), graph=True)
        product = self.derive(gradient @ row)

        flat = outputs.reshape(-1)
        jacobian = torch.stack([self.derive(one) for one in flat])
        at = outputs.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.loss(at), at, create_graph=True)
        change = (jacobian @ row).reshape(outputs.shape)
        (curved,) = torch.autograd.grad(slope, at, change, materialize_grads=True)
        return gradient.detach(), product, jacobian.T @ curved.reshape(-1)


def _plainly(subject: Subject, model: nn.Module, inputs: Tensor, targets: Tensor, row: Tensor):  # type: ignore[no-untyped-def]
    math = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with math, torch.compiler.set_stance("force_eager"):
        return Reference.of(subject, model, inputs, targets).everything(row.double())


def _relative(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other).norm() / max(float(other.norm()), 1e-9))


def _row(weights: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(weights), generator=generator, dtype=torch.float64).to(weights)


def _require_right(subject: Subject, dtype: torch.dtype, law: float) -> None:
    model, (inputs, targets) = subject.build(dtype)
    weights = flatten(model)
    row = _row(weights)
    gradient, hessian, ggn = _plainly(subject, model, inputs, targets, row)
    risk = EmpiricalRisk(model, subject.loss, (inputs, targets), chunk=4)
    assert _relative(risk.gradient(weights), gradient) < law
    for curvature, expected in ((Curvature.HESSIAN, hessian), (Curvature.GGN, ggn)):
        kept = risk.curvature(weights, curvature, budget=2**24)
        for _ in range(2):  # from a new graph, and from the same
            assert _relative(kept.products(row[None])[0], expected) < law, curvature
    assert torch.equal(flatten(model), weights)


def test_the_catalogue_is_large() -> None:
    assert len(SOUND) >= 110
    assert len(UNSOUND) >= 40


@pytest.mark.parametrize("name", SOUND)
def test_derivatives_are_those_of_double_backward_in_float64(name: str) -> None:
    _require_right(SOUND[name], torch.float64, LAW)


@pytest.mark.parametrize(
    "name", ["Tanh", "GroupNorm", "MaxPool2d", "checkpointed", "tied", *RECURRENT, *ATTENTION]
)
def test_derivatives_in_float32_are_right_to_its_rounding(name: str) -> None:
    _require_right(SOUND[name], torch.float32, ROUNDING[torch.float32])


@pytest.mark.parametrize(
    "name",
    ["Tanh", "ReLU", "GELU", "LayerNorm", "Conv3d", "checkpointed", "TransformerEncoderLayer"],
)
def test_derivatives_in_bfloat16_are_those_of_the_rounded_network(name: str) -> None:
    _require_right(SOUND[name], torch.bfloat16, ROUNDING[torch.bfloat16])


@pytest.mark.parametrize("name", ["checkpointed", "checkpointed in a row and nested"])
def test_checkpoints_are_computed_again_at_the_weights_of_the_question(name: str) -> None:
    """Not at those that the module has meanwhile."""
    subject = SOUND[name]
    model, (inputs, targets) = subject.build()
    asked = flatten(model) + 0.3
    at = copy.deepcopy(model)
    load(at, asked)
    row = _row(asked)
    expected = _plainly(subject, at, inputs, targets, row)
    risk = EmpiricalRisk(model, subject.loss, (inputs, targets))
    kept = {one: risk.curvature(asked, one, budget=2**24) for one in Curvature}
    for _ in range(2):
        assert _relative(risk.gradient(asked), expected[0]) < LAW
        assert _relative(kept[Curvature.HESSIAN].products(row[None])[0], expected[1]) < LAW
        assert _relative(kept[Curvature.GGN].products(row[None])[0], expected[2]) < LAW
        load(model, torch.randn(len(asked), dtype=asked.dtype))


@pytest.mark.parametrize("name", ["TransformerEncoderLayer", "TransformerEncoderLayer, padded"])
def test_values_are_of_the_same_function_as_gradients(name: str) -> None:
    """Without a graph, torch takes another path through attention where it may."""
    subject = SOUND[name]
    model, examples = subject.build()
    risk = EmpiricalRisk(model, subject.loss, examples)
    weights = flatten(model)
    row = _row(weights)
    step = 1e-5
    slope = (risk.value(weights + step * row) - risk.value(weights - step * row)) / (2 * step)
    assert slope == pytest.approx(float(risk.gradient(weights) @ row), rel=1e-6)
    with_graph = subject.loss(model(examples[0]), examples[1]).item() * COUNT
    assert risk.value(weights) == pytest.approx(with_graph, rel=1e-12)
    assert torch.backends.mha.get_fastpath_enabled()


def _answers(refused: Refused) -> list[object]:
    model, examples = refused.subject.build()
    risk = EmpiricalRisk(model, refused.subject.loss, examples)
    weights = flatten(model)
    row = _row(weights)
    answers: list[object] = []
    for curvature in Curvature:
        try:
            answers.append(risk.products(weights, row[None], curvature))
        except NoCurvatureError:
            continue
    return answers


@pytest.mark.parametrize("name", UNSOUND)
def test_what_cannot_be_right_is_refused_with_cause_and_remedy(name: str) -> None:
    refused = UNSOUND[name]
    with pytest.raises(FedunlearnError, match=refused.says) as refusal:
        _answers(refused)
    assert isinstance(refusal.value, InputError | NonFiniteError | OwnCodeError)
    assert "\n" not in str(refusal.value)
    with pytest.raises(FedunlearnError, match=refused.says):  # looking has not changed anything
        _answers(refused)


@pytest.mark.parametrize("name", ["ReLU", "Hardshrink", "MaxPool2d", "RNN, relu", "Threshold"])
def test_kinks_are_no_reason_to_refuse(name: str) -> None:
    for seed in range(20):
        subject = SOUND[name]
        model, (inputs, targets) = subject.build()
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype)
        load(model, 3.0 * torch.randn(len(flatten(model)), generator=generator).double())
        EmpiricalRisk(model, subject.loss, (inputs, targets)).require_differentiable()


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e-3, 10.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_neither_small_nor_large_weights_are_a_reason_to_refuse(
    dtype: torch.dtype, scale: float
) -> None:
    for name in ("Tanh", "ReLU", "GELU", "LayerNorm", "mse"):
        model, examples = SOUND[name].build(dtype)
        load(model, scale * flatten(model))
        EmpiricalRisk(model, SOUND[name].loss, examples).require_differentiable()


def test_what_computes_in_float32_whatever_it_is_given_is_looked_at_in_float32() -> None:
    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            outputs: Tensor = self.head(torch.tanh(self.body(inputs.float())))
            return outputs

    subject = Subject(Narrow)
    model, (inputs, targets) = subject.build(torch.float32)
    plain = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    weights = flatten(model)
    load(plain, weights)
    row = _row(weights)
    expected = _plainly(subject, plain, inputs, targets, row)
    risk = EmpiricalRisk(model, subject.loss, (inputs, targets))
    for curvature, product in zip((Curvature.HESSIAN, Curvature.GGN), expected[1:], strict=True):
        found = risk.products(weights, row[None], curvature)[0]
        assert _relative(found, product) < ROUNDING[torch.float32]

    wrong = UNSOUND["kept instead of saved"].subject.make()

    class WrongAndNarrow(Narrow):
        def forward(self, inputs: Tensor) -> Tensor:
            return wrong.function(self, inputs.float())  # type: ignore[operator,no-any-return]

    model, examples = Subject(WrongAndNarrow).build(torch.float32)
    with pytest.raises(FedunlearnError, match="Keeper"):
        EmpiricalRisk(model, subject.loss, examples).require_differentiable()


def test_local_training_of_a_checkpointed_model_by_the_fisher_rule_is_right() -> None:
    from fedunlearn.risk.local_rules import FisherDescent

    plan = LocalPlan(epochs=1, batch_size=3, learning_rate=0.1, weight_decay=0.0, order=(1,))
    rule = FisherDescent(momentum=0.5, memory=0.5, damping=0.1)
    subject = SOUND["checkpointed"]
    model, examples = subject.build()
    plain, _ = subject.build()
    plain.function = lambda m, x: m.head(torch.tanh(m.body(x)))  # type: ignore[assignment]
    start = flatten(model)
    ends = [train_locally(m, subject.loss, examples, start, plan, rule) for m in (model, plain)]
    torch.testing.assert_close(*ends)
    assert ParameterLayout.of(model).dimension == len(start)


@pytest.mark.parametrize("coarse", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_parts_that_round_coarsely_are_no_reason_to_refuse(coarse: torch.dtype) -> None:
    def rounds(model: nn.Module, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(body(model, inputs)).to(coarse).to(inputs.dtype)
        return head(model, torch.tanh(hidden))

    for seed in range(5):
        model, examples = function(rounds).build()
        load(
            model,
            torch.randn(
                len(flatten(model)), generator=torch.Generator().manual_seed(seed)
            ).double(),
        )
        EmpiricalRisk(model, SOUND["Tanh"].loss, examples).require_differentiable()


def test_kernels_are_set_back_whichever_thread_ends_last() -> None:
    model = nn.Linear(2, 2)
    inside = [threading.Event(), threading.Event()]
    leave = [threading.Event(), threading.Event()]

    def hold(number: int) -> None:
        with twice_differentiable(model):
            inside[number].set()
            assert leave[number].wait(10.0)
            assert not torch.backends.mha.get_fastpath_enabled()
            assert not torch.backends.cuda.flash_sdp_enabled()

    threads = [threading.Thread(target=hold, args=(number,)) for number in (0, 1)]
    for number, thread in enumerate(threads):  # the first to begin is the first to end
        thread.start()
        assert inside[number].wait(10.0)
    for number, thread in enumerate(threads):
        leave[number].set()
        thread.join(10.0)
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()
