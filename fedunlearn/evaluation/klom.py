"""KLoM: the divergence of margins between unlearned and retrained models."""

from __future__ import annotations

import torch
from torch import Tensor

from fedunlearn.evaluation.margins import Gaussians

CAP = 100.0
PERCENTILE = 0.95


def klom(unlearned: Tensor, retrained: Tensor) -> float:
    """Return the 95th percentile over examples of KL(retrained || unlearned) of their margins.

    Source: Georgiev, Rinberg, Park, Garg, Ilyas, Madry, Neel 2024, "Attribute-to-delete: machine
    unlearning via datamodel matching". They bin the margins of 100 models; for the few there are
    here the distributions are taken to be normal, see ``Gaussians`` for their variances. Few models
    are apart by chance: what KLoM retrained models have is what can be reached.

    Args:
        unlearned: Margins (models, n), of two models at least.
        retrained: Margins (other models, n), likewise.

    Returns:
        In nats, at most 100 for an example.
    """
    each = Gaussians.of(retrained).divergence_to(Gaussians.of(unlearned))
    return float(torch.quantile(each.clamp_max(CAP), PERCENTILE))
