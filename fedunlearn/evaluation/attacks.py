"""Membership inference: what can be told of the forget set from a model's predictions."""

from __future__ import annotations

import math

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from fedunlearn.evaluation.margins import Gaussians

LEAST_SHADOWS = 2


def auc(suspects: Tensor, others: Tensor) -> float:
    """Return how well a threshold on scores tells suspects (n,) from others (m,).

    Returns:
        The area under the ROC curve: .5 where scores tell nothing; nan where one is no number.
    """
    scores = torch.cat([suspects, others])
    if not bool(scores.isfinite().all()):
        return math.nan
    labels = torch.cat([torch.ones(len(suspects)), torch.zeros(len(others))])
    return float(roc_auc_score(labels.numpy(), scores.numpy()))


def membership_auc(members: Tensor, strangers: Tensor) -> float:
    """Return how well one threshold on the loss tells members from strangers (Yeom et al. 2018).

    The attack on the population: every example is held against the same threshold.

    Args:
        members: Losses of examples that were, or are suspected to have been, trained on: (n,).
        strangers: Losses of examples that never were: (m,).

    Returns:
        The area under the ROC curve; .5 where losses tell nothing.
    """
    return auc(-members, -strangers)


def ulira_auc(
    forgotten: Tensor, tested: Tensor, forgotten_shadows: Tensor, tested_shadows: Tensor
) -> float:
    """Return how well margins tell forgotten from held-out examples, each by its own measure.

    The likelihood ratio attack where it is only known what models do that never saw an example
    (its offline form; Carlini et al. 2022), on unlearning as Hayes et al. 2024 ("Inexact
    unlearning needs more careful evaluations to avoid a false sense of privacy") apply it. The
    shadow models are oracles, which saw neither. The score is how far the margin lies above
    theirs, in standard deviations.

    Args:
        forgotten: Margins of the model on the forget set (n,).
        tested: On held-out examples (m,).
        forgotten_shadows: Of the shadow models (shadows, n), two at least.
        tested_shadows: Likewise (shadows, m).

    Returns:
        The area under the ROC curve; .5 where forgotten examples look like held-out ones.
    """
    # One fit, so that both kinds of examples share what they have in common.
    shadows = Gaussians.of(torch.cat([forgotten_shadows, tested_shadows], 1))
    scores = shadows.standardised(torch.cat([forgotten, tested]))
    return auc(scores[: len(forgotten)], scores[len(forgotten) :])


def told_apart(unlearned: Tensor, retrained: Tensor) -> float:
    """Return how well unlearned models are told from retrained ones by one forgotten example.

    The game of U-LiRA (Hayes et al. 2024): a model's margin on a forgotten example, under the
    Gaussian of the unlearned models and under that of the retrained ones. The attacker knows
    neither the model nor its twin: both are left out of the Gaussians it is scored with.

    Args:
        unlearned: Margins (models, n) on the forget set, three models at least.
        retrained: Likewise; each row is the twin of an unlearned model, with the same seed.

    Returns:
        The area under the ROC curve over examples and models; .5 where they cannot be told apart.
    """
    of_unlearned: list[Tensor] = []
    of_retrained: list[Tensor] = []
    for left_out in range(len(unlearned)):
        known = [number for number in range(len(unlearned)) if number != left_out]
        gone, anew = Gaussians.of(unlearned[known]), Gaussians.of(retrained[known])
        for margins, scores in ((unlearned, of_unlearned), (retrained, of_retrained)):
            at = margins[left_out]
            scores.append(gone.log_density(at) - anew.log_density(at))
    return auc(torch.cat(of_unlearned), torch.cat(of_retrained))
