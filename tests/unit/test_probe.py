"""What cannot be differentiated is refused before a product is formed, with a remedy."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fedunlearn.errors import (
    EmptyNodeError,
    FedunlearnError,
    InputError,
    NoCurvatureError,
    NonFiniteError,
    NotDeterministicError,
    TaskError,
)
from fedunlearn.risk.objective import EmpiricalRisk
from fedunlearn.risk.probe import require_ggn
from fedunlearn.risk.task import Examples, Loss

pytestmark = pytest.mark.slow

MSE: Loss = nn.functional.mse_loss


class _Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.linear(inputs)
        return outputs + torch.randn_like(outputs) if self.training else outputs


class _FunctionalDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.linear(nn.functional.dropout(inputs, 0.5, self.training))
        return outputs


def _with(layer: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(4, 4), nn.Sequential(layer, nn.Tanh()), nn.Linear(4, 2))


def _in_image(*layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Unflatten(1, (1, 2, 2)), *layers, nn.Flatten(), nn.Linear(4, 2))


RANDOM = {
    "dropout": (_with(nn.Dropout(0.1)), "layer '1.0' \\(Dropout\\).*use weight decay.*eval\\(\\)"),
    "dropout of channels": (
        _in_image(nn.Dropout2d(0.1)),
        "layer '1' \\(Dropout2d\\).*use weight decay.*eval\\(\\)",
    ),
    "batch norm": (
        _with(nn.BatchNorm1d(4)),
        "layer '1.0' \\(BatchNorm1d\\) in training mode.*use GroupNorm.*eval\\(\\)",
    ),
    "batch norm of images": (
        _in_image(nn.BatchNorm2d(1)),
        "layer '1' \\(BatchNorm2d\\) in training mode.*use GroupNorm.*eval\\(\\)",
    ),
    "noise in forward": (
        _Noisy,
        "\\(_Noisy\\) draws random numbers.*global.*in forward.*eval\\(\\)",
    ),
    "functional dropout": (
        _FunctionalDropout,
        "\\(_FunctionalDropout\\) draws random numbers.*in forward",
    ),
}


def _examples(count: int = 20) -> Examples:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(count, 4, generator=generator, dtype=torch.float64),
        torch.randn(count, 2, generator=generator, dtype=torch.float64),
    )


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("build, message", RANDOM.values(), ids=RANDOM)
def test_a_model_that_draws_or_mixes_is_refused_in_training_mode(
    build: Callable[[], nn.Module], message: str
) -> None:
    model = build().double().train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(NotDeterministicError, match=message) as refusal:
        EmpiricalRisk(model, MSE, _examples())
    assert "\n" not in str(refusal.value)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize("build", [build for build, _ in RANDOM.values()], ids=RANDOM)
def test_the_same_model_passes_in_eval_mode(build: Callable[[], nn.Module]) -> None:
    model = build().double().eval()
    risk = EmpiricalRisk(model, MSE, _examples())
    weights = torch.zeros(risk.layout.dimension, dtype=torch.float64)
    _, targets = _examples()
    assert risk.value(weights) == pytest.approx(0.5 * float((targets**2).sum()))


@pytest.mark.parametrize(
    "layer", [nn.Dropout(0.0), nn.GroupNorm(2, 4), nn.LayerNorm(4)], ids=lambda layer: str(layer)
)
def test_harmless_layers_pass_in_training_mode(layer: nn.Module) -> None:
    model = _with(layer)().double().train()
    assert len(EmpiricalRisk(model, MSE, _examples())) == 20
    assert model.training


LOSSES = {
    "mse, sum": (lambda o, t: nn.functional.mse_loss(o, t, reduction="sum"), "is not the mean"),
    "mse, none": (
        lambda o, t: nn.functional.mse_loss(o, t, reduction="none"),
        "returns shape \\(16, 2\\)",
    ),
    "bce, sum": (
        lambda o, t: nn.functional.binary_cross_entropy_with_logits(
            o, t.sigmoid(), reduction="sum"
        ),
        "is not the mean",
    ),
    "one number an example": (lambda o, t: ((o - t) ** 2).mean(1), "returns shape \\(16,\\)"),
    "mean over a fixed count": (lambda o, t: ((o - t) ** 2).sum() / 20, "is not the mean"),
    "weighed by other than the count": (
        lambda o, t: ((o - t) ** 2 * t.exp()).sum() / t.exp().sum(),
        "of two parts does not add up",
    ),
    "mixes examples": (
        lambda o, t: (((o - o.mean(0)) - t) ** 2).mean(),
        "of two parts does not add up",
    ),
}


@pytest.mark.parametrize("loss, message", LOSSES.values(), ids=LOSSES)
def test_a_loss_that_is_no_mean_is_refused(loss: Loss, message: str) -> None:
    with pytest.raises(TaskError, match=f"loss: {message}.*reduction='"):
        EmpiricalRisk(nn.Linear(4, 2).double(), loss, _examples())


@pytest.mark.parametrize(
    "loss",
    [nn.CrossEntropyLoss(weight=torch.tensor([1.0, 4.0])), nn.CrossEntropyLoss(ignore_index=1)],
    ids=["class weights", "ignore_index"],
)
def test_a_loss_that_divides_by_weights_is_refused_for_data_in_any_order(loss: Loss) -> None:
    inputs = torch.randn(400, 4)
    targets = torch.arange(400) // 200  # the first half is of one class
    with pytest.raises(TaskError, match="with class weights or ignore_index"):
        EmpiricalRisk(nn.Linear(4, 2), loss, (inputs, targets))


def test_class_weights_that_are_divided_by_the_count_pass() -> None:
    weights = torch.tensor([1.0, 4.0])

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        losses = nn.functional.cross_entropy(outputs, targets, reduction="none")
        return (losses * weights[targets]).mean()

    examples = torch.randn(30, 4), torch.randint(2, (30,))
    model = nn.Linear(4, 2)
    whole, parts = (EmpiricalRisk(model, loss, examples, chunk=chunk) for chunk in (30, 7))
    at = torch.ones(10)
    assert parts.value(at) == pytest.approx(whole.value(at), rel=1e-5)


@pytest.mark.parametrize("gap", [5.0, 10.0, 14.0, 16.0, 20.0, 1e4])
def test_a_model_that_fits_its_data_passes_though_its_loss_is_rounding(gap: float) -> None:
    model = nn.Sequential(nn.Linear(50, 50), nn.Linear(50, 2))
    inputs, targets = torch.randn(40, 50), torch.zeros(40).long()
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([gap, 0.0]))
    assert len(EmpiricalRisk(model, nn.CrossEntropyLoss(), (inputs, targets))) == 40


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_inputs_that_are_not_finite_are_refused(bad: float) -> None:
    inputs, targets = _examples()
    inputs[17, 2] = bad  # beyond the examples of the probe
    with pytest.raises(NonFiniteError, match="data: inputs: 1 of 80 numbers"):
        EmpiricalRisk(nn.Linear(4, 2).double(), MSE, (inputs, targets))


@pytest.mark.parametrize(
    "inputs, targets, error, message",
    [
        (0, 0, EmptyNodeError, "no examples; a node needs at least one"),
        (3, 2, TaskError, "3 inputs but 2 targets"),
        (0, 2, TaskError, "0 inputs but 2 targets"),
    ],
)
def test_missing_examples_are_refused(
    inputs: int, targets: int, error: type[FedunlearnError], message: str
) -> None:
    whole = _examples()
    with pytest.raises(error, match=message) as refusal:
        EmpiricalRisk(nn.Linear(4, 2).double(), MSE, (whole[0][:inputs], whole[1][:targets]))
    assert type(refusal.value) is error
    assert isinstance(refusal.value, InputError)


def test_one_example_is_enough() -> None:
    assert len(EmpiricalRisk(nn.Linear(4, 2).double(), MSE, _examples(1))) == 1


def test_integer_inputs_are_accepted() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2)).double()
    tokens = torch.tensor([[0, 1], [2, 3], [4, 0]])
    targets = torch.zeros(3, 2, dtype=torch.float64)
    risk = EmpiricalRisk(model, MSE, (tokens, targets))
    assert risk.value(torch.zeros(risk.layout.dimension, dtype=torch.float64)) == 0.0


CLASSES, REALS, BITS, SIGNS, SHARES = "classes", "reals", "bits", "signs", "shares"
CURVED: dict[str, tuple[Loss, str]] = {
    "cross-entropy": (nn.functional.cross_entropy, CLASSES),
    "label smoothing": (nn.CrossEntropyLoss(label_smoothing=0.1), CLASSES),
    "class weights": (nn.CrossEntropyLoss(weight=torch.tensor([0.1, 1.0, 2.0, 5.0])), CLASSES),
    "soft targets": (nn.functional.cross_entropy, SHARES),
    "mse": (MSE, REALS),
    "bce": (nn.functional.binary_cross_entropy_with_logits, BITS),
    "huber": (nn.functional.huber_loss, REALS),
    "narrow huber": (nn.HuberLoss(delta=0.05), REALS),
    "smooth l1": (nn.functional.smooth_l1_loss, REALS),
    "soft margin": (nn.functional.soft_margin_loss, SIGNS),
    "softplus": (lambda o, t: nn.functional.softplus(-t * o).mean(), SIGNS),
    "squared hinge": (lambda o, t: nn.functional.relu(1.0 - t * o).square().mean(), SIGNS),
}
FLAT: dict[str, tuple[Loss, str]] = {
    "l1": (nn.functional.l1_loss, REALS),
    "hinge": (lambda o, t: nn.functional.relu(1.0 - t * o).mean(), SIGNS),
    "nll": (lambda o, t: nn.functional.nll_loss(o, t), CLASSES),
    "linear": (lambda o, t: (o * t).mean(), REALS),
}


def _focal(outputs: Tensor, targets: Tensor) -> Tensor:
    losses = nn.functional.cross_entropy(outputs, targets, reduction="none")
    return ((1.0 - (-losses).exp()).square() * losses).mean()


BENT: dict[str, tuple[Loss, str]] = {
    "focal": (_focal, CLASSES),
    "cosine": (lambda o, t: o.cos().mean(), REALS),
    "welsch": (lambda o, t: (1.0 - (-(o - t).square()).exp()).mean(), REALS),
    "negative squares": (lambda o, t: -(o - t).square().mean(), REALS),
    "brier": (lambda o, t: (o.softmax(1) - t).square().mean(), SHARES),
}


def _at(kind: str, scale: float, *, count: int = 16) -> tuple[Tensor, Tensor]:
    """Draw a model's outputs, times ``scale``, and targets."""
    outputs, reals = torch.randn(2, count, 4)
    targets = {
        CLASSES: outputs.argmax(1),  # all right: a large scale saturates the loss
        REALS: reals,
        BITS: (outputs > 0.0).float(),
        SIGNS: outputs.sign(),
        SHARES: outputs.argmax(1).eq(torch.arange(4)[:, None]).T.float(),
    }
    return scale * outputs, targets[kind]


@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0, 1e4])
@pytest.mark.parametrize(("loss", "targets"), CURVED.values(), ids=CURVED)
def test_convex_losses_have_a_ggn_for_fresh_and_for_saturated_models(
    loss: Loss, targets: str, scale: float
) -> None:
    require_ggn(loss, *_at(targets, scale))
    require_ggn(loss, *_at(targets, scale, count=1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize(("loss", "targets"), CURVED.values(), ids=CURVED)
def test_convex_losses_have_a_ggn_in_other_precisions(
    loss: Loss, targets: str, dtype: torch.dtype
) -> None:
    if dtype == torch.float64 and isinstance(loss, nn.CrossEntropyLoss):
        pytest.skip("has float32 weights of its own")
    outputs, goals = _at(targets, 3.0)
    require_ggn(loss, outputs.to(dtype), goals.to(dtype) if goals.is_floating_point() else goals)


@pytest.mark.parametrize("loss", [MSE, nn.functional.binary_cross_entropy_with_logits])
def test_one_output_an_example_has_a_ggn(loss: Loss) -> None:
    require_ggn(loss, torch.randn(16), torch.rand(16))


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize(("loss", "targets"), FLAT.values(), ids=FLAT)
def test_losses_without_a_second_derivative_have_no_ggn(
    loss: Loss, targets: str, scale: float
) -> None:
    with pytest.raises(NoCurvatureError, match=r"no second derivative.*curvature = 'hessian'"):
        require_ggn(loss, *_at(targets, scale))


@pytest.mark.parametrize("scale", [1.0, 10.0, 1e4])
@pytest.mark.parametrize(("loss", "targets"), BENT.values(), ids=BENT)
def test_losses_that_are_not_convex_have_no_ggn(loss: Loss, targets: str, scale: float) -> None:
    with pytest.raises(NoCurvatureError, match=r"not convex.*curvature = 'hessian'"):
        require_ggn(loss, *_at(targets, scale))


def test_a_loss_that_torch_cannot_differentiate_twice_has_no_ggn() -> None:
    with pytest.raises(NoCurvatureError, match=r"cannot differentiate it twice.*multi_margin"):
        require_ggn(nn.functional.multi_margin_loss, *_at(CLASSES, 1.0))


@pytest.mark.parametrize("outputs", [(torch.ones(2),), {"logits": torch.ones(2)}, None], ids=str)
def test_outputs_that_are_not_one_tensor_have_no_ggn(outputs: object) -> None:
    with pytest.raises(
        NoCurvatureError, match=f"model: returns {type(outputs).__name__}, .*logits"
    ):
        require_ggn(MSE, outputs, torch.ones(2))


def test_a_loss_is_not_asked_about_outputs_that_it_does_not_allow() -> None:
    """Probabilities above 1 would end a process with a GPU; a negative variance is an error."""
    bits = (torch.rand(16, 3) > 0.5).float()
    for sharpness in (0.1, 1.0, 1e4):
        probabilities = (sharpness * torch.randn(16, 3)).sigmoid()
        require_ggn(nn.functional.binary_cross_entropy, probabilities, bits)

    def of_mean_and_variance(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.gaussian_nll_loss(outputs[:, 0], targets, outputs[:, 1].square())

    with pytest.raises(NoCurvatureError, match="not convex"):
        require_ggn(of_mean_and_variance, torch.rand(16, 2), torch.rand(16))
    require_ggn(nn.functional.poisson_nll_loss, 100.0 * torch.randn(16, 3), bits)


def test_errors_of_the_loss_itself_are_left_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="must match"):
        require_ggn(lambda o, t: (o - t[:, :3]).square().mean(), *_at(REALS, 1.0))
