"""The margin of a prediction, and its distribution over a few models.

Attacks on single examples use the margin: the logit of an example's class less the
log-sum-exp of the others', log(p / (1 - p)), which is nearly normal over models (Carlini et al.
2022, "Membership inference attacks from first principles").
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

TINY = 1e-300
LIMIT = 100.0
LEAST_VARIANCE = 1e-4
# Shrinkage of an example's variance: the weight of the mean variance, as a number of models.
MODELS_IN_COMMON = 8


def margins(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Return log(p / (1 - p)) of the class that each example has.

    Args:
        probabilities: Class probabilities of one model (n, classes), float64.
        targets: True classes (n,).

    Returns:
        The margins (n,), between -100 and 100.
    """
    places = targets[:, None]
    own = probabilities.gather(1, places)[:, 0]
    others = probabilities.scatter(1, places, 0.0).sum(1)
    return (own.clamp_min(TINY).log() - others.clamp_min(TINY).log()).clamp(-LIMIT, LIMIT)


@dataclass(frozen=True, eq=False)
class Gaussians:
    """For each example, the normal distribution of its margin over models.

    Attributes:
        mean: Means (n,).
        variance: Variances (n,), above 0.
    """

    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, observed: Tensor) -> Gaussians:
        """Fit the distributions to observed margins.

        An example's variance is shrunk towards the mean variance of all examples, the more the
        fewer models there are: with few models all examples share one variance, as in Carlini et
        al., with many models each has its own.

        Args:
            observed: Margins of at least two models (models, n).

        Returns:
            The distributions; no variance is below 1e-4.
        """
        own = observed.var(0)
        freedom = len(observed) - 1
        drawn = (freedom * own + MODELS_IN_COMMON * own.mean()) / (freedom + MODELS_IN_COMMON)
        return cls(observed.mean(0), drawn.clamp_min(LEAST_VARIANCE))

    def standardised(self, observed: Tensor) -> Tensor:
        """Return the number of standard deviations by which margins (..., n) exceed the mean."""
        return (observed - self.mean) / self.variance.sqrt()

    def log_density(self, observed: Tensor) -> Tensor:
        """Return the log density at margins (..., n)."""
        return -(self.standardised(observed).square() + (2 * math.pi * self.variance).log()) / 2

    def divergence_to(self, other: Gaussians) -> Tensor:
        """Return the Kullback-Leibler divergence KL(self || other) of each example, (n,), nats."""
        ratio = self.variance / other.variance
        return (other.standardised(self.mean).square() + ratio - 1 - ratio.log()) / 2
