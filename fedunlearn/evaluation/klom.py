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
    unlearning via datamodel matching". They bin the margins of 100 models; for the few models
    here the distributions are assumed to be normal, see ``Gaussians`` for their variances. Few
    models differ by chance: the KLoM of retrained models is the lowest that can be reached.

    Args:
        unlearned: Margins of at least two models (models, n).
        retrained: Margins of at least two other models (other models, n).

    Returns:
        The divergence in nats, at most 100 for an example.
    """
    each = Gaussians.of(retrained).divergence_to(Gaussians.of(unlearned))
    return float(torch.quantile(each.clamp_max(CAP), PERCENTILE))
