"""Models that are more than a stack: tied, parametrised, checkpointed, compiled, mixed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from tests.model_subjects import (
    CLASSES,
    COUNT,
    Shaped,
    Subject,
    _made,
    between,
    function,
)


class _Tied(nn.Module):
    """One matrix as embedding and as head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(torch.tanh(self.embedding(inputs).mean(1)))
        return outputs


class _Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight + weight.T


def _parametrized(change: Callable[[nn.Linear], nn.Module]) -> Subject:
    return Subject(
        lambda: nn.Sequential(nn.Linear(6, 6), nn.Tanh(), change(nn.Linear(6, 6)), nn.Linear(6, 3))
    )


def _symmetric(layer: nn.Linear) -> nn.Module:
    return parametrize.register_parametrization(layer, "weight", _Symmetric())


def _old_weight_norm(layer: nn.Linear) -> nn.Module:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


def _old_spectral_norm(layer: nn.Linear) -> nn.Module:
    return nn.utils.spectral_norm(layer)


class Square(torch.autograd.Function):
    """An old-style function, right to the second derivative."""

    @staticmethod
    def forward(ctx: object, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)  # type: ignore[attr-defined]
        return inputs * inputs

    @staticmethod
    def backward(ctx: object, *slopes: Tensor) -> Tensor:
        (inputs,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return 2.0 * inputs * slopes[0]


class _Exponential(torch.autograd.Function):
    """It saves its output, which autograd knows the history of."""

    @staticmethod
    def forward(ctx: object, inputs: Tensor) -> Tensor:
        outputs = inputs.exp()
        ctx.save_for_backward(outputs)  # type: ignore[attr-defined]
        return outputs

    @staticmethod
    def backward(ctx: object, *slopes: Tensor) -> Tensor:
        (outputs,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return outputs * slopes[0]


def body(model: nn.Module, inputs: Tensor) -> Tensor:
    return model.body(inputs)  # type: ignore[no-any-return,operator]


def head(model: nn.Module, inputs: Tensor) -> Tensor:
    return model.head(inputs)  # type: ignore[no-any-return,operator]


def _in_place(model: nn.Module, inputs: Tensor) -> Tensor:
    hidden = body(model, inputs)
    hidden += 0.5
    hidden[:, 0] = hidden[:, 1].detach() * 0.0 + hidden[:, 2] * 2.0
    return head(model, hidden.mul_(1.5).tanh_())


def _checkpointed(model: nn.Module, inputs: Tensor) -> Tensor:
    hidden = checkpoint(lambda x: torch.tanh(body(model, x)), inputs, use_reentrant=False)
    assert isinstance(hidden, Tensor)
    return head(model, hidden)


class _CheckpointedStack(nn.Module):
    """Checkpoints in a row, and one inside of another."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3)))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = checkpoint_sequential(self.stack, 3, inputs, use_reentrant=False)
        again = checkpoint(
            lambda x: checkpoint(self.stack[0], x, use_reentrant=False) * x,
            hidden,
            use_reentrant=False,
        )
        outputs: Tensor = self.head(again)
        return outputs


def _compiled() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, CLASSES))
    compiled: nn.Module = torch.compile(model, backend="aot_eager")  # type: ignore[assignment]
    return compiled


def _compiled_in_place() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, CLASSES))
    model[1].compile(backend="aot_eager")
    return model


def _mixture(model: nn.Module, inputs: Tensor) -> Tensor:
    gates = torch.softmax(model.gate(inputs), 1)  # type: ignore[operator]
    return head(model, body(model, inputs).tanh() * gates)


def _sampled(model: nn.Module, inputs: Tensor) -> Tensor:
    places = torch.tanh(body(model, inputs))[:, :2].reshape(-1, 1, 1, 2)
    grid = torch.linspace(0.0, 1.0, 16, dtype=inputs.dtype).reshape(1, 1, 4, 4)
    sampled = nn.functional.grid_sample(
        grid.expand(len(inputs), -1, -1, -1), places, align_corners=False
    )
    return head(model, body(model, inputs) * sampled.reshape(-1, 1))


OTHERS: Mapping[str, Subject] = {
    "Bilinear": Subject(
        lambda: Shaped(
            lambda model, x: model.layer(x[:, :3], x[:, 3:]),  # type: ignore[operator]
            layer=nn.Bilinear(3, 3, CLASSES),
        )
    ),
    "CosineSimilarity": function(
        lambda model, x: (
            head(model, body(model, x)) * model.cosine(x[:, :5], body(model, x))[:, None]
        ),  # type: ignore[operator]
        cosine=nn.CosineSimilarity,
    ),
    "PairwiseDistance": function(
        lambda model, x: head(model, body(model, x)) + model.far(x[:, :5], body(model, x))[:, None],  # type: ignore[operator]
        far=nn.PairwiseDistance,
    ),
    "GLU": Subject(_made(between(nn.GLU, 6), (6,))),
    "tied": Subject(
        _Tied, (3,), 7, targets=lambda generator: torch.randint(7, (COUNT,), generator=generator)
    ),
    "a layer used twice": function(
        lambda model, x: head(model, model.twice(model.twice(body(model, x)).tanh())),  # type: ignore[operator]
        twice=lambda: nn.Linear(5, 5),
    ),
    "a layer not used": function(
        lambda model, x: head(model, body(model, x).tanh()), spare=lambda: nn.Linear(5, 5)
    ),
    "in place": function(_in_place),
    "grid_sample": function(_sampled),
    "mixture of experts": function(_mixture, gate=lambda: nn.Linear(6, 5)),
    "einsum": function(
        lambda model, x: head(model, torch.einsum("bi,bj->bij", x, body(model, x)).mean(1))
    ),
    "sort and cumsum": function(
        lambda model, x: head(model, body(model, x).sort(1).values.cumsum(1).tanh())
    ),
    "logsumexp": function(
        lambda model, x: head(model, body(model, x)) + body(model, x).logsumexp(1, keepdim=True)
    ),
    "fft": function(lambda model, x: head(model, torch.fft.fft(body(model, x)).real.tanh())),
    "complex": function(
        lambda model, x: head(model, torch.polar(body(model, x).exp(), body(model, x)).imag)
    ),
    "inverse": function(
        lambda model, x: head(
            model,
            torch.linalg.solve(
                torch.diag_embed(2.0 + body(model, x).square()), body(model, x)[..., None]
            )[..., 0],
        )
    ),
    "spectral_norm in eval mode": _parametrized(parametrizations.spectral_norm),
    "spectral_norm of old in eval mode": _parametrized(_old_spectral_norm),
    "orthogonal": _parametrized(parametrizations.orthogonal),
    "orthogonal, householder": _parametrized(
        lambda layer: parametrizations.orthogonal(layer, orthogonal_map="householder")
    ),
    "symmetric": _parametrized(_symmetric),
    "old-style function": function(
        lambda model, x: head(model, Square.apply(torch.tanh(body(model, x))))
    ),
    "old-style function of its output": function(
        lambda model, x: head(model, _Exponential.apply(torch.tanh(body(model, x))))
    ),
    "checkpointed": function(_checkpointed),
    "checkpointed in a row and nested": Subject(_CheckpointedStack),
    "compiled": Subject(_compiled),
    "compiled in part": Subject(_compiled_in_place),
}
