"""ResNet-18 for small images, with GroupNorm in the place of BatchNorm."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

WIDTHS = (64, 128, 256, 512)
BLOCKS = 2
GROUPS = 32


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside an identity (He et al. 2016, figure 2)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        """Build it.

        Args:
            channels: Channels of the inputs.
            width: Channels of the outputs.
            stride: Stride of the first convolution and of the shortcut.
        """
        super().__init__()
        self.first = _convolution(channels, width, stride)
        self.second = _convolution(width, width, 1)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.GroupNorm(GROUPS, width)
            )

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.second(torch.relu(self.first(inputs)))
        return torch.relu(hidden + self.shortcut(inputs))


def resnet18_layers(channels: int, classes: int) -> nn.Module:
    """Return the network for images (channels, height, width) of about 32 x 32.

    As He et al. 2016 for CIFAR: a 3 x 3 stem, no pooling before the blocks. GroupNorm (Wu, He
    2018) instead of BatchNorm, whose statistics belong to a batch and not to the weights (Hsieh et
    al. 2020 on federations). 11.2 million parameters for 3 channels and 10 classes.
    """
    layers: list[nn.Module] = [_convolution(channels, WIDTHS[0], 1), nn.ReLU()]
    before = WIDTHS[0]
    for stage, width in enumerate(WIDTHS):
        for block in range(BLOCKS):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(ResidualBlock(before, width, stride))
            before = width
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], classes)
    )


def _convolution(channels: int, width: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride, padding=1, bias=False), nn.GroupNorm(GROUPS, width)
    )
