"""Models of every kind that torch offers, each small enough for dense derivatives.

Those of ``SOUND`` must be differentiated right; ``UNSOUND`` must be refused, never answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from fedunlearn.risk.task import Examples, Loss

COUNT = 6
CLASSES = 3
Make = Callable[[], nn.Module]


@dataclass(frozen=True)
class Subject:
    """A model with what it takes.

    Attributes:
        make: Builds it from torch's global generator.
        inputs: Shape of one example.
        tokens: How many there are, where inputs are tokens; 0 for real numbers.
        loss: Mean over examples.
        targets: Draws targets; classes where left out.
    """

    make: Make
    inputs: tuple[int, ...] = (6,)
    tokens: int = 0
    loss: Loss = nn.functional.cross_entropy
    targets: Callable[[torch.Generator], Tensor] | None = None

    def build(self, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Examples]:
        """Return the model in eval mode, and examples."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            model = self.make().to(dtype).eval()
        generator = torch.Generator().manual_seed(3)
        if self.tokens:
            inputs = torch.randint(self.tokens, (COUNT, *self.inputs), generator=generator)
        else:
            shape = (COUNT, *self.inputs)
            inputs = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        if self.targets is None:
            targets = torch.randint(CLASSES, (COUNT,), generator=generator)
        else:
            targets = self.targets(generator)
            targets = targets.to(dtype) if targets.is_floating_point() else targets
        return model, (inputs, targets)


class Shaped(nn.Module):
    """A function with layers of its own, as a module."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor], **layers: nn.Module):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self, inputs)


def between(layer: Make, width: int = 5) -> Make:
    """Return a network with a layer between two linear ones."""
    return lambda: nn.Sequential(nn.Linear(6, width), layer(), nn.LazyLinear(CLASSES))


def _made(make: Make, inputs: tuple[int, ...], tokens: int = 0) -> Make:
    """Return a network whose lazy layers have got their shapes."""

    def build() -> nn.Module:
        model = make()
        training = model.training
        example = torch.zeros(2, *inputs).long() if tokens else torch.randn(2, *inputs)
        model.eval()(example)
        return model.train(training)

    return build


def image(layer: Make, channels: int = 2, size: tuple[int, ...] = (6, 6)) -> Subject:
    """Return a network with a layer over images, volumes or signals, and a linear head."""
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(size) - 1]

    def make() -> nn.Module:
        return nn.Sequential(
            convolution(1, channels, 3), layer(), nn.Flatten(), nn.LazyLinear(CLASSES)
        )

    return Subject(_made(make, (1, *size)), (1, *size))


def first(layer: Make, inputs: tuple[int, ...]) -> Subject:
    """Return a network that begins with a layer and ends with a linear head."""

    def make() -> nn.Module:
        return nn.Sequential(layer(), nn.Flatten(), nn.LazyLinear(CLASSES))

    return Subject(_made(make, inputs), inputs)


def recurrent(layer: Make) -> Subject:
    """Return a recurrent layer over 4 steps, and a linear head on its last output."""

    def run(model: nn.Module, inputs: Tensor) -> Tensor:
        outputs, _ = model.layer(inputs)  # type: ignore[operator]
        return model.head(outputs[:, -1])  # type: ignore[no-any-return,operator]

    return Subject(_made(lambda: Shaped(run, layer=layer(), head=nn.LazyLinear(3)), (4, 5)), (4, 5))


def cell(layer: Make) -> Subject:
    """Return a recurrent cell that is called step by step."""

    def run(model: nn.Module, inputs: Tensor) -> Tensor:
        state = None
        for step in inputs.unbind(1):
            state = model.layer(step, state)  # type: ignore[operator]
        hidden = state[0] if isinstance(state, tuple) else state
        return model.head(hidden)  # type: ignore[no-any-return,operator]

    return Subject(lambda: Shaped(run, layer=layer(), head=nn.Linear(5, CLASSES)), (3, 4))


def function(run: Callable[[nn.Module, Tensor], Tensor], width: int = 5, **layers: Make) -> Subject:
    """Return a network whose hidden layer goes through a function."""

    def make() -> nn.Module:
        more = {name: layer() for name, layer in layers.items()}
        return Shaped(run, body=nn.Linear(6, width), head=nn.Linear(width, CLASSES), **more)

    return Subject(make)


ACTIVATIONS: Mapping[str, Make] = {
    kind.__name__: kind
    for kind in (
        *(nn.ELU, nn.Hardshrink, nn.Hardtanh, nn.Hardswish, nn.LeakyReLU),
        *(nn.LogSigmoid, nn.PReLU, nn.ReLU, nn.ReLU6, nn.RReLU, nn.SELU, nn.CELU, nn.GELU),
        *(nn.Sigmoid, nn.SiLU, nn.Mish, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh),
        *(nn.Tanhshrink, nn.Identity),
    )
} | {
    "Threshold": lambda: nn.Threshold(0.1, 0.0),
    "GELU, tanh": lambda: nn.GELU(approximate="tanh"),
    "Softmax": lambda: nn.Softmax(1),
    "Softmin": lambda: nn.Softmin(1),
    "LogSoftmax": lambda: nn.LogSoftmax(1),
    "ReLU in place": lambda: nn.ReLU(inplace=True),
    "SiLU in place": lambda: nn.SiLU(inplace=True),
    "Dropout in eval mode": lambda: nn.Dropout(0.5),
    "AlphaDropout in eval mode": lambda: nn.AlphaDropout(0.5),
}

NORMS: Mapping[str, Subject] = {
    "LayerNorm": Subject(_made(between(lambda: nn.LayerNorm(5)), (6,))),
    "RMSNorm": Subject(_made(between(lambda: nn.RMSNorm(5)), (6,))),
    "BatchNorm1d": Subject(_made(between(lambda: nn.BatchNorm1d(5)), (6,))),
    "BatchNorm2d": image(lambda: nn.BatchNorm2d(2)),
    "BatchNorm3d": image(lambda: nn.BatchNorm3d(2), size=(3, 3, 4)),
    "GroupNorm": image(lambda: nn.GroupNorm(2, 4), channels=4),
    "InstanceNorm1d": image(lambda: nn.InstanceNorm1d(2, affine=True), size=(8,)),
    "InstanceNorm2d": image(lambda: nn.InstanceNorm2d(2, affine=True)),
    "InstanceNorm2d, tracked": image(lambda: nn.InstanceNorm2d(2, track_running_stats=True)),
    "LocalResponseNorm": image(lambda: nn.LocalResponseNorm(2)),
}

POOLS: Mapping[str, Subject] = {
    "MaxPool1d": image(lambda: nn.MaxPool1d(2), size=(8,)),
    "MaxPool2d": image(lambda: nn.MaxPool2d(2)),
    "MaxPool3d": image(lambda: nn.MaxPool3d(2), size=(4, 4, 4)),
    "AvgPool1d": image(lambda: nn.AvgPool1d(2), size=(8,)),
    "AvgPool2d": image(lambda: nn.AvgPool2d(2)),
    "AvgPool3d": image(lambda: nn.AvgPool3d(2), size=(4, 4, 4)),
    "LPPool2d": image(lambda: nn.Sequential(nn.Softplus(), nn.LPPool2d(3.0, 2))),
    "AdaptiveAvgPool2d": image(lambda: nn.AdaptiveAvgPool2d(2)),
    "AdaptiveMaxPool2d": image(lambda: nn.AdaptiveMaxPool2d(2)),
    "AdaptiveAvgPool1d": image(lambda: nn.AdaptiveAvgPool1d(2), size=(8,)),
    "AdaptiveMaxPool1d": image(lambda: nn.AdaptiveMaxPool1d(2), size=(8,)),
    "Upsample, bilinear": image(lambda: nn.Upsample(scale_factor=2, mode="bilinear")),
    "Upsample, bicubic": image(lambda: nn.Upsample(scale_factor=2, mode="bicubic")),
    "Upsample, nearest": image(lambda: nn.Upsample(scale_factor=2)),
    "PixelShuffle": image(lambda: nn.PixelShuffle(2), channels=4),
    "PixelUnshuffle": image(lambda: nn.PixelUnshuffle(2)),
    "ChannelShuffle": image(lambda: nn.ChannelShuffle(2), channels=4),
    "Fold of Unfold": image(lambda: nn.Sequential(nn.Unfold(2), nn.Fold((4, 4), 2)), size=(6, 6)),
    "ReflectionPad2d": image(lambda: nn.ReflectionPad2d(1)),
    "ReplicationPad2d": image(lambda: nn.ReplicationPad2d(1)),
    "ConstantPad2d": image(lambda: nn.ConstantPad2d(1, 0.5)),
    "CircularPad2d": image(lambda: nn.CircularPad2d(1)),
}

CONVOLUTIONS: Mapping[str, Subject] = {
    "Conv2d, depthwise, dilated": image(lambda: nn.Conv2d(4, 4, 2, dilation=2, groups=4), 4),
    "Conv2d, reflecting": image(lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")),
    "ConvTranspose1d": image(lambda: nn.ConvTranspose1d(2, 2, 2, stride=2), size=(8,)),
    "ConvTranspose2d": image(lambda: nn.ConvTranspose2d(2, 2, 2, stride=2)),
    "ConvTranspose3d": image(lambda: nn.ConvTranspose3d(2, 1, 2), size=(3, 3, 3)),
    "Conv3d": image(lambda: nn.Conv3d(2, 2, 2), size=(4, 4, 4)),
}

RECURRENT: Mapping[str, Subject] = {
    "RNN": recurrent(lambda: nn.RNN(5, 4, batch_first=True)),
    "RNN, relu": recurrent(lambda: nn.RNN(5, 4, batch_first=True, nonlinearity="relu")),
    "LSTM": recurrent(lambda: nn.LSTM(5, 4, batch_first=True)),
    "LSTM, projected": recurrent(lambda: nn.LSTM(5, 4, batch_first=True, proj_size=2)),
    "GRU": recurrent(lambda: nn.GRU(5, 4, batch_first=True)),
    "GRU, both ways, two layers": recurrent(
        lambda: nn.GRU(5, 3, num_layers=2, batch_first=True, bidirectional=True)
    ),
    "RNNCell": cell(lambda: nn.RNNCell(4, 5)),
    "LSTMCell": cell(lambda: nn.LSTMCell(4, 5)),
    "GRUCell": cell(lambda: nn.GRUCell(4, 5)),
}


def _attention(model: nn.Module, inputs: Tensor) -> Tensor:
    mixed, _ = model.layer(inputs, inputs, inputs, need_weights=False)  # type: ignore[operator]
    return model.head(mixed.mean(1))  # type: ignore[no-any-return,operator]


def _masked(model: nn.Module, inputs: Tensor) -> Tensor:
    """Leave out the last tokens of some examples: the fast path gives other values there."""
    padded = inputs[:, :, 0] > 0.8
    padded[:, 0] = False
    encoded = model.layer(inputs, src_key_padding_mask=padded)  # type: ignore[operator]
    return model.head(encoded.mean(1))  # type: ignore[no-any-return,operator]


def _causal(model: nn.Module, inputs: Tensor) -> Tensor:
    queries, keys, values = model.body(inputs).chunk(3, -1)  # type: ignore[operator]
    mixed = nn.functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    return model.head(mixed[:, -1])  # type: ignore[no-any-return,operator]


def _translated(model: nn.Module, inputs: Tensor) -> Tensor:
    return model.head(model.layer(inputs, inputs).mean(1))  # type: ignore[no-any-return,operator]


def _encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)


def tokens(make: Make, inputs: tuple[int, ...] = (3, 4)) -> Subject:
    return Subject(make, inputs)


ATTENTION: Mapping[str, Subject] = {
    "MultiheadAttention": tokens(
        lambda: Shaped(
            _attention,
            layer=nn.MultiheadAttention(4, 2, batch_first=True),
            head=nn.Linear(4, CLASSES),
        )
    ),
    "MultiheadAttention, extra bias": tokens(
        lambda: Shaped(
            _attention,
            layer=nn.MultiheadAttention(
                4, 2, batch_first=True, add_bias_kv=True, add_zero_attn=True
            ),
            head=nn.Linear(4, CLASSES),
        )
    ),
    "TransformerEncoderLayer": tokens(
        lambda: nn.Sequential(_encoder(), nn.Flatten(), nn.Linear(12, CLASSES))
    ),
    "TransformerEncoderLayer, gelu, norm first": tokens(
        lambda: nn.Sequential(
            nn.TransformerEncoderLayer(
                4, 2, 6, 0.0, activation="gelu", batch_first=True, norm_first=True
            ),
            nn.Flatten(),
            nn.Linear(12, CLASSES),
        )
    ),
    "TransformerEncoderLayer, padded": tokens(
        lambda: Shaped(_masked, layer=_encoder(), head=nn.Linear(4, CLASSES))
    ),
    "Transformer": tokens(
        lambda: Shaped(
            _translated,
            layer=nn.Transformer(4, 2, 1, 1, 6, dropout=0.0, batch_first=True),
            head=nn.Linear(4, CLASSES),
        )
    ),
    "scaled_dot_product_attention, causal": tokens(
        lambda: Shaped(_causal, body=nn.Linear(4, 12), head=nn.Linear(4, CLASSES))
    ),
}


EMBEDDINGS: Mapping[str, Subject] = {
    "Embedding": Subject(
        lambda: nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, CLASSES)), (3,), 7
    ),
    "Embedding, padded": Subject(
        lambda: nn.Sequential(
            nn.Embedding(7, 4, padding_idx=0), nn.Flatten(), nn.Linear(12, CLASSES)
        ),
        *((3,), 7),
    ),
}


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


class _Square(torch.autograd.Function):
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
        lambda model, x: head(model, _Square.apply(torch.tanh(body(model, x))))
    ),
    "old-style function of its output": function(
        lambda model, x: head(model, _Exponential.apply(torch.tanh(body(model, x))))
    ),
    "checkpointed": function(_checkpointed),
    "checkpointed in a row and nested": Subject(_CheckpointedStack),
    "compiled": Subject(_compiled),
    "compiled in part": Subject(_compiled_in_place),
}

REALS = {
    "mse": Subject(
        lambda: nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)),
        loss=nn.functional.mse_loss,
        targets=lambda generator: torch.randn(COUNT, 2, generator=generator),
    ),
    "one output, bce": Subject(
        lambda: nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0)),
        loss=nn.functional.binary_cross_entropy_with_logits,
        targets=lambda generator: torch.rand(COUNT, generator=generator).round(),
    ),
    "poisson": Subject(
        lambda: nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0)),
        loss=nn.functional.poisson_nll_loss,
        targets=lambda generator: torch.rand(COUNT, generator=generator).round(),
    ),
}

SOUND: Mapping[str, Subject] = {
    **{name: Subject(_made(between(make), (6,))) for name, make in ACTIVATIONS.items()},
    **NORMS,
    **POOLS,
    **CONVOLUTIONS,
    **RECURRENT,
    **ATTENTION,
    **EMBEDDINGS,
    **OTHERS,
    **REALS,
}
