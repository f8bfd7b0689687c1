"""Membership inference: what a model's predictions reveal about its training examples."""

from __future__ import annotations

import math

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from fedunlearn.evaluation.margins import Gaussians

LEAST_SHADOWS = 2


def auc(suspects: Tensor, others: Tensor) -> float:
    """Return how well a threshold on scores separates suspects (n,) from others (m,).

    Returns:
        The area under the ROC curve: 0.5 where scores reveal nothing; nan where one is no number.
    """
    scores = torch.cat([suspects, others])
    if not bool(scores.isfinite().all()):
        return math.nan
    labels = torch.cat([torch.ones(len(suspects)), torch.zeros(len(others))])
    return float(roc_auc_score(labels.numpy(), scores.numpy()))


def membership_auc(members: Tensor, others: Tensor) -> float:
    """Return how well one threshold on the loss separates members from others (Yeom et al. 2018).

    This is the attack on the population: every example is compared with the same threshold.

    Args:
        members: Losses of examples that were, or are suspected to have been, trained on: (n,).
        others: Losses of examples that were not: (m,).

    Returns:
        The area under the ROC curve; 0.5 where losses reveal nothing.
    """
    return auc(-members, -others)


def ulira_auc(
    forgotten: Tensor, tested: Tensor, forgotten_shadows: Tensor, tested_shadows: Tensor
) -> float:
    """Return how well margins separate forgotten from held-out examples (U-LiRA).

    This is the offline form of the likelihood ratio attack, whose shadow models never saw the
    examples (Carlini et al. 2022), applied to unlearning as by Hayes et al. 2024 ("Inexact
    unlearning needs more careful evaluations to avoid a false sense of privacy"). The shadow
    models are oracles, which saw neither kind of example. The score of an example is the number
    of standard deviations by which its margin exceeds the mean of theirs.

    Args:
        forgotten: Margins of the model on the forget set (n,).
        tested: Margins of the model on held-out examples (m,).
        forgotten_shadows: Margins of at least two shadow models on the forget set (shadows, n).
        tested_shadows: Margins of the shadow models on held-out examples (shadows, m).

    Returns:
        The area under the ROC curve; 0.5 where forgotten examples look like held-out ones.
    """
    # One fit, so that both kinds of examples share the mean variance.
    shadows = Gaussians.of(torch.cat([forgotten_shadows, tested_shadows], 1))
    scores = shadows.standardised(torch.cat([forgotten, tested]))
    return auc(scores[: len(forgotten)], scores[len(forgotten) :])


def pair_auc(unlearned: Tensor, retrained: Tensor) -> float:
    """Return how well a forgotten example's margin separates unlearned from retrained models.

    This is the game of U-LiRA (Hayes et al. 2024): the score is the likelihood ratio of a model's
    margin under the Gaussian of the unlearned models and under that of the retrained ones. The
    attacker knows neither the model nor its twin, so both are left out of the two Gaussians.

    Args:
        unlearned: Margins of at least three models on the forget set (models, n).
        retrained: Margins of their twins (models, n): the retrained models with the same seeds.

    Returns:
        The area under the ROC curve over examples and models; 0.5 where they are
        indistinguishable.
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
