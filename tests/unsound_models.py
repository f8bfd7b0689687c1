"""Models, losses and data that cannot be differentiated right: each is refused, by its cause."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from tests.model_compositions import body, head
from tests.model_subjects import CLASSES, COUNT, Shaped, Subject, function, image


@dataclass(frozen=True)
class Refused:
    """A subject and what its refusal must say.

    Attributes:
        subject: The model with what it takes.
        says: A regular expression: the cause, the layer and the remedy.
    """

    subject: Subject
    says: str


def _bag(mode: str, **more: object) -> Subject:
    def run(model: nn.Module, inputs: Tensor) -> Tensor:
        return head(model, model.layer(inputs))  # type: ignore[operator]

    return Subject(
        lambda: Shaped(
            run,
            layer=nn.EmbeddingBag(7, 4, mode=mode, **more),  # type: ignore[arg-type]
            head=nn.Linear(4, CLASSES),
        ),
        *((3,), 7),
    )


def _custom(kind: type[torch.autograd.Function]) -> Subject:
    return function(lambda model, x: head(model, kind.apply(torch.tanh(body(model, x)))))


class Keeper(torch.autograd.Function):
    """Keeps what it should save, so that the derivative of its derivative is lost."""

    @staticmethod
    def forward(ctx: object, inputs: Tensor) -> Tensor:
        ctx.kept = inputs.detach()  # type: ignore[attr-defined]
        return inputs * inputs

    @staticmethod
    def backward(ctx: object, *slopes: Tensor) -> Tensor:
        return 2.0 * ctx.kept * slopes[0]  # type: ignore[attr-defined,no-any-return]


class Intermediate(torch.autograd.Function):
    """Saves what it computed on the way: neither an input nor an output."""

    @staticmethod
    def forward(ctx: object, inputs: Tensor) -> Tensor:
        powers = inputs.exp()
        ctx.save_for_backward(powers)  # type: ignore[attr-defined]
        return powers.square()

    @staticmethod
    def backward(ctx: object, *slopes: Tensor) -> Tensor:
        (powers,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return 2.0 * powers.square() * slopes[0]  # type: ignore[no-any-return]


class Detached(torch.autograd.Function):
    """Its backward is no function of what it is given, as far as torch can see."""

    @staticmethod
    def forward(ctx: object, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)  # type: ignore[attr-defined]
        return 2.0 * inputs

    @staticmethod
    def backward(ctx: object, *slopes: Tensor) -> Tensor:
        return 2.0 * slopes[0].detach()


class ByNumpy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)  # type: ignore[attr-defined]
        return torch.from_numpy(np.sin(inputs.detach().numpy()))

    @staticmethod
    def backward(ctx: object, *slopes: Tensor) -> Tensor:
        (inputs,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return slopes[0] * torch.from_numpy(np.cos(inputs.detach().numpy()))


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)  # type: ignore[attr-defined]
        return inputs * inputs

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: object, *slopes: Tensor) -> Tensor:
        (inputs,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return 2.0 * inputs * slopes[0]  # type: ignore[no-any-return]


class Legacy(torch.autograd.Function):
    def forward(self, inputs: Tensor) -> Tensor:  # type: ignore[override]
        return inputs * inputs


def _legacy(model: nn.Module, inputs: Tensor) -> Tensor:
    return head(model, Legacy()(body(model, inputs)))  # type: ignore[no-untyped-call]


def _reentrant(model: nn.Module, inputs: Tensor) -> Tensor:
    hidden = checkpoint(lambda x: torch.tanh(x), body(model, inputs), use_reentrant=True)
    assert isinstance(hidden, Tensor)
    return head(model, hidden)


def _by_numpy(model: nn.Module, inputs: Tensor) -> Tensor:
    return head(model, torch.from_numpy(np.tanh(body(model, inputs).numpy())))


def _without_grad(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return head(model, body(model, inputs))


def _inference(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        hidden = body(model, inputs)
    return head(model, hidden)


def _detached(model: nn.Module, inputs: Tensor) -> Tensor:
    return head(model, body(model, inputs)).detach()


def _clamps(model: nn.Module, inputs: Tensor) -> Tensor:
    model.body.weight.data.clamp_(-0.1, 0.1)  # type: ignore[union-attr]
    return head(model, body(model, inputs))


def _decays(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        model.head.weight.mul_(0.99)  # type: ignore[union-attr]
    return head(model, body(model, inputs))


def _replaces(model: nn.Module, inputs: Tensor) -> Tensor:
    assert isinstance(model.head, nn.Linear)
    model.head.bias = nn.Parameter(model.head.bias.detach() * 0.5)
    return head(model, body(model, inputs))


def _over_the_batch(model: nn.Module, inputs: Tensor) -> Tensor:
    hidden = body(model, inputs)
    return head(model, hidden - hidden.mean(0))


def _root(model: nn.Module, inputs: Tensor) -> Tensor:
    return head(model, (body(model, inputs) * 0.0).abs().sqrt() + body(model, inputs))


def _norm(model: nn.Module, inputs: Tensor) -> Tensor:
    hidden = body(model, inputs)
    return head(model, hidden) + (hidden - hidden.detach()).square().sum(1, True).sqrt()


def _steep(model: nn.Module, inputs: Tensor) -> Tensor:
    hidden = body(model, inputs)
    return head(model, hidden + (hidden - hidden.detach()).abs().pow(1.5))


def _lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(4), nn.Tanh(), nn.LazyLinear(CLASSES))


def _plain() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, CLASSES))


def _one() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))


def _reals(generator: torch.Generator) -> Tensor:
    return torch.randn(COUNT, generator=generator)


NO_SECOND = "torch has no second derivative; write it with other operations"
MODELS: Mapping[str, Refused] = {
    "Hardsigmoid": Refused(
        Subject(lambda: nn.Sequential(nn.Linear(6, 5), nn.Hardsigmoid(), nn.Linear(5, CLASSES))),
        rf"layer '1' \(Hardsigmoid\).*{NO_SECOND}",
    ),
    "EmbeddingBag, mean": Refused(_bag("mean"), rf"layer 'layer' \(EmbeddingBag\).*{NO_SECOND}"),
    "EmbeddingBag, sum": Refused(_bag("sum"), rf"layer 'layer' \(EmbeddingBag\).*{NO_SECOND}"),
    "EmbeddingBag, max": Refused(_bag("max"), rf"layer 'layer' \(EmbeddingBag\).*{NO_SECOND}"),
    "EmbeddingBag, renormalised": Refused(
        _bag("sum", max_norm=1.0), r"layer 'layer' \(EmbeddingBag\) with max_norm.*leave max_norm"
    ),
    "Embedding, renormalised": Refused(
        Subject(
            lambda: nn.Sequential(
                nn.Embedding(7, 4, max_norm=1.0), nn.Flatten(), nn.Linear(12, CLASSES)
            ),
            *((3,), 7),
        ),
        r"layer '0' \(Embedding\) with max_norm.*leave max_norm",
    ),
    "weight_norm": Refused(
        Subject(
            lambda: nn.Sequential(
                nn.Linear(6, 5),
                nn.Tanh(),
                parametrizations.weight_norm(nn.Linear(5, 5)),
                nn.Linear(5, CLASSES),
            )
        ),
        r"'2.parametrizations.weight.original1'.*fused weight_norm; parametrize",
    ),
    "BatchNorm without statistics": Refused(
        image(lambda: nn.BatchNorm2d(2, track_running_stats=False)),
        r"layer '1' \(BatchNorm2d\) without running statistics mixes.*GroupNorm",
    ),
    "a mean over the batch": Refused(
        function(_over_the_batch), "depend on the other examples of its batch.*LayerNorm"
    ),
    "once differentiable": Refused(_custom(Once), "once_differentiable.*leave the mark out"),
    "kept instead of saved": Refused(_custom(Keeper), "autograd.Function Keeper; let backward"),
    "saved on the way": Refused(_custom(Intermediate), "autograd.Function Intermediate; let"),
    "detached slopes": Refused(_custom(Detached), "autograd.Function Detached; let backward"),
    "NumPy in backward": Refused(_custom(ByNumpy), "autograd.Function ByNumpy|NumPy in forward"),
    "legacy function": Refused(function(_legacy), "@staticmethod and call it by apply"),
    "reentrant checkpoint": Refused(function(_reentrant), "use_reentrant=False"),
    "NumPy in forward": Refused(function(_by_numpy), "leaves torch for NumPy.*torch's operations"),
    "no_grad in forward": Refused(function(_without_grad), "no way from the loss back.*no_grad"),
    "inference mode": Refused(function(_inference), "inference_mode"),
    "detached outputs": Refused(function(_detached), "no way from the loss back.*detach"),
    "clamped weights": Refused(function(_clamps), "weights 'body.weight' change in forward"),
    "decaying weights": Refused(function(_decays), "weights 'head.weight' change in forward"),
    "replaced weights": Refused(function(_replaces), "weights 'head.bias' change in forward"),
    "root at 0": Refused(function(_root), "NaN or infinite.*sqrt.*small number under the root"),
    "norm at 0": Refused(function(_norm), "NaN or infinite.*norm.*small number under the root"),
    "power at 0": Refused(function(_steep), "product of .* is NaN or infinite.*small number"),
    "script": Refused(
        Subject(lambda: torch.jit.script(_plain())), "TorchScript.*before torch.jit.script"
    ),
    "traced in part": Refused(
        Subject(
            lambda: nn.Sequential(
                torch.jit.trace(nn.Linear(6, 5), torch.zeros(2, 6)), nn.Linear(5, CLASSES)
            )
        ),
        "layer '0'.*TorchScript.*before torch.jit.script",
    ),
    "data parallel": Refused(
        Subject(lambda: nn.DataParallel(_plain())), r"\(DataParallel\).*return what it wraps"
    ),
    "lazy": Refused(Subject(_lazy), r"layer '0' \(LazyLinear\).*call the model on one example"),
    "one column against none": Refused(
        Subject(_one, loss=nn.functional.mse_loss, targets=_reals),
        r"\(6, 1\) and \(6,\), which are stretched to \(6, 6\).*targets\[:, None\]",
    ),
    "none against one column": Refused(
        Subject(
            lambda: nn.Sequential(_one(), nn.Flatten(0)),
            loss=lambda o, t: (o - t).abs().mean(),
            targets=lambda generator: _reals(generator)[:, None],
        ),
        r"\(6,\) and \(6, 1\), which are stretched to \(6, 6\)",
    ),
    "a loss without second derivative": Refused(
        Subject(_plain, loss=nn.functional.multi_margin_loss), f"loss: .*{NO_SECOND}"
    ),
    "a loss that torch does not see": Refused(
        Subject(_plain, loss=lambda o, t: nn.functional.cross_entropy(o.detach(), t)),
        "no way from the loss back",
    ),
}


def _typed(inputs: Callable[[Tensor], Tensor], targets: Callable[[Tensor], Tensor]) -> Subject:
    class Given(Subject):
        def build(self, dtype: torch.dtype = torch.float32) -> object:  # type: ignore[override]
            del dtype
            model, (x, y) = super().build(torch.float32)
            return model, (inputs(x), targets(y))

    return Given(_plain)


def _as_is(values: Tensor) -> Tensor:
    return values


DATA: Mapping[str, Refused] = {
    "float64 inputs": Refused(
        _typed(lambda x: x.double(), _as_is), r"data: .*float64.*inputs.to\(torch.float32\)"
    ),
    "integer inputs": Refused(
        _typed(lambda x: x.to(torch.uint8), _as_is), r"data: .*uint8.*inputs.to\(torch.float32\)"
    ),
    "real labels": Refused(_typed(_as_is, lambda y: y.float()), r"data: .*targets.long\(\)"),
    "short labels": Refused(
        _typed(_as_is, lambda y: y.to(torch.int16)), r"data: .*int16.*targets.long\(\)"
    ),
    "labels in a column": Refused(
        _typed(_as_is, lambda y: y[:, None]), r"data: .*\(6, 1\).*targets.squeeze\(1\)"
    ),
    "inputs of another width": Refused(
        _typed(lambda x: x[:, :4], _as_is), r"RuntimeError.*layer '0' \(Linear\).*\(6, 4\)"
    ),
}
UNSOUND: Mapping[str, Refused] = {**MODELS, **DATA}
