"""Models of every kind that torch offers, each small enough for dense derivatives.

Those of ``SOUND`` must be differentiated right; ``UNSOUND`` must be refused, never answered.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tests.model_compositions import OTHERS
from tests.model_subjects import (
    CLASSES,
    COUNT,
    Make,
    Shaped,
    Subject,
    _made,
    between,
    cell,
    image,
    recurrent,
)

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
