"""Networks on token ids: a sum of embeddings, and a frozen transformer encoder with adapters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from fedunlearn.models.adapters import add_adapters
from fedunlearn.tokens import PADDING, VOCABULARY

TEXT_WIDTH = 16
# Small, so that the few words of a batch soon outweigh the drawn ones: plain SGD at the rates that
# suit images then trains it.
INITIAL_SCALE = 0.1

ENCODER_SEED = 2021
# Random codes this wide keep most words apart in every linear reading of them.
CODE_WIDTH = 1024
WIDTH = 32
HEADS = 2
HIDDEN = 64
RANK = 8


class TextClassifier(nn.Module):
    """A linear reading of the embedded words of a text, summed over the root of their number.

    The averaging network of Cer et al. 2018 without its hidden layers: on 5,700 rows of news they
    fit the training rows better and new ones worse (measured).
    """

    def __init__(self, classes: int) -> None:
        """Build it for that many classes."""
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, TEXT_WIDTH)
        with torch.no_grad():
            self.embedding.weight.mul_(INITIAL_SCALE)
        self.head = nn.Linear(TEXT_WIDTH, classes)

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        embedded, words = self.embedding(tokens), tokens != PADDING
        outputs: Tensor = self.head(_summed(embedded, words) / _counted(words, embedded).sqrt())
        return outputs


class EncoderLayer(nn.Module):
    """Self-attention and two linear layers beside identities, each after LayerNorm.

    In the order of Xiong et al. 2020, of operations that can be differentiated twice and under
    ``torch.func``: torch's own fused attention cannot.
    """

    def __init__(self) -> None:
        """Build it."""
        super().__init__()
        self.attention_norm = nn.LayerNorm(WIDTH)
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.output = nn.Linear(WIDTH, WIDTH)
        self.hidden_norm = nn.LayerNorm(WIDTH)
        self.widen = nn.Linear(WIDTH, HIDDEN)
        self.narrow = nn.Linear(HIDDEN, WIDTH)

    @override
    def forward(self, hidden: Tensor, words: Tensor) -> Tensor:
        normed = self.attention_norm(hidden)
        query, key, value = (
            layer(normed).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        # Not -inf: a text without words would have no finite attention at all.
        scores = scores.masked_fill(~words[:, None, None], torch.finfo(scores.dtype).min)
        attended = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        hidden = hidden + self.output(attended)
        changed: Tensor = self.narrow(torch.relu(self.widen(self.hidden_norm(hidden))))
        return hidden + changed


class TextEncoder(nn.Module):
    """A small transformer encoder: codes of words, narrowed, one layer, their normed mean.

    Without positions: a topic hardly depends on the order of words.
    """

    def __init__(self) -> None:
        """Build it, with random weights."""
        super().__init__()
        self.codes = nn.Embedding(VOCABULARY, CODE_WIDTH)
        self.project = nn.Linear(CODE_WIDTH, WIDTH)
        self.layer = EncoderLayer()
        self.norm = nn.LayerNorm(WIDTH)

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        words = tokens != PADDING
        hidden = self.layer(self.project(self.codes(tokens)), words)
        normed: Tensor = self.norm(_summed(hidden, words) / _counted(words, hidden))
        return normed


def text(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Embedded words, summed, and one linear layer."""
    return TextClassifier(classes)


def text_adapters(shape: tuple[int, ...], classes: int) -> nn.Module:
    """A frozen encoder with low-rank adapters, and a linear head: what trains is 0.3 % of it.

    The encoder has the same random weights everywhere. It stands in for a trained one, which
    ``add_adapters`` prepares in the same way.

    Returns:
        The network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(ENCODER_SEED)
        encoder = TextEncoder()
    return nn.Sequential(add_adapters(encoder, RANK), nn.Linear(WIDTH, classes))


def _summed(values: Tensor, words: Tensor) -> Tensor:
    """Sum (n, length, width) over the words of each text, which (n, length) marks."""
    return (values * words[..., None]).sum(1)


def _counted(words: Tensor, like: Tensor) -> Tensor:
    """Count the words of each text, an empty one's as 1: (n, 1)."""
    return words.sum(1, keepdim=True).clamp(min=1).to(like.dtype)
