"""Texts as hashed token ids, so that every node gets the same ids without a shared vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]

PADDING = 0
# Number of ids, including padding. In news, the most frequent 4,000 words make up 85 % of the text;
# embeddings of more would dominate the model and every vector that is sent.
VOCABULARY = 4096
# Number of words that are used. Of AG News, 98 % of titles with descriptions are shorter.
LENGTH = 64


def joined(columns: Sequence[Sequence[str]]) -> list[str]:
    """Join the cells of each row of some columns of text."""
    return [" ".join(cells) for cells in zip(*columns, strict=True)]


def token_ids(texts: Sequence[str]) -> Tokens:
    """Convert texts to the ids of their words.

    Words of two letters or more, in lower case, are hashed by MurmurHash3: feature hashing
    (Weinberger et al. 2009) with scikit-learn's reading of words and its hash function.

    Args:
        texts: One text per example.

    Returns:
        The ids (n, LENGTH): from 1 to VOCABULARY - 1 in the order of the words, then ``PADDING``.
    """
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.utils import murmurhash3_32

    words_of = HashingVectorizer().build_analyzer()
    known: dict[str, int] = {}
    ids = np.full((len(texts), LENGTH), PADDING, dtype=np.int64)
    for row, text in zip(ids, texts, strict=True):
        words = words_of(text)[:LENGTH]
        for word in set(words).difference(known):
            known[word] = 1 + murmurhash3_32(word, seed=0, positive=True) % (VOCABULARY - 1)
        row[: len(words)] = [known[word] for word in words]
    return ids
