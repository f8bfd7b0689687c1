"""What training left undone, and how much of it a removal makes up for.

A model that is retrained without the forget set stops as early as the trained one did. Along a
direction of curvature h and after a time T of gradient flow both lack a share e^(-hT) of their way,
and the difference between them is

    (1 - e^(-hT)) / h  times  grad F - grad F_r = (n_f/n_r) (grad F_f - grad F),

all gradients at w^. So the gradient of the step is -(n_f/n_r) grad F_f, and with it the share n_f/n
of (n/n_r) grad F(w^): the rest of what training left undone is missing in the retrained model too,
and following it would train instead of unlearn. The step is taken a little short of that
(``COMPLETED``), because the gradient of what leaves is taken at u, where it is longer. Where
training converged grad F(w^) is small, and the share hardly matters.

The first factor is about T where hT is small: a step needs at least the damping 1/T in directions
that training had not finished, and one that is damped less follows the noise in what is left of
grad F_f - grad F. The gradients tell 1/T without the rates of training, which other optimisers do
not have: with the way d = w^ - w0, -<grad F(w^), d> / <d, d> is h / (e^(hT) - 1), 1/T where
training had hardly begun and 0 where it converged. Half of it is the least damping that is tried,
as in a recording (``natural_damping``).

Measured on digits, and checked on FashionMNIST, from 3 rounds of training to 60.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.vectors import dot, norm

# Of the share n_f/n of what training left undone, the part that the step follows.
COMPLETED = 0.75

REMEDY = "train further before the removal, add recovery rounds, or retrain"


@dataclass(frozen=True)
class Undone:
    """What training left undone, held against what leaves.

    Attributes:
        gradient_norm: ||grad F(w^)||.
        over_leaving: (n/n_r) ||grad F(w^)|| over (n_f/n_r) ||grad F_f(u)||: more than 1 where what
            training left undone outweighs what leaves.
        ahead: How much further training would go, as a multiple of the way from w0 to w^: the
            Newton step of F along that way. None where grad F is known at one point only.
        completion: c, the share of (n/n_r) grad F(w^) that the step follows.
        least_damping: The damping below which directions that training had not finished are noise,
            in units of curvature.
    """

    gradient_norm: float
    over_leaving: float
    ahead: float | None
    completion: float
    least_damping: float

    @property
    def outweighs(self) -> bool:
        """Whether what training left undone outweighs what leaves."""
        return self.over_leaving > 1.0

    @property
    def converged(self) -> bool:
        """Whether training came more than half of its way, as far as the gradients show."""
        return self.ahead is None or self.ahead <= 1.0

    @property
    def remark(self) -> str | None:
        """What a user must know of it, with the remedy; None where there is nothing to say."""
        if not self.converged:
            what = "training had not converged"
            if self.outweighs:
                what += ", and what it left undone outweighs what leaves"
            return f"{what}: {REMEDY}"
        if self.outweighs:
            return f"what training left undone outweighs what leaves: {REMEDY}"
        return None

    def as_dict(self) -> Mapping[str, float]:
        """Return all of it as values that JSON can hold; what is not known is left out."""
        told = {
            "gradient_norm_at_trained": self.gradient_norm,
            "undone_over_leaving": self.over_leaving,
            "completion": self.completion,
            "least_damping": self.least_damping,
        }
        return told if self.ahead is None else told | {"training_ahead": self.ahead}


def completion_of(share: float) -> float:
    """Return the completion c of a removal of a share n_f/n of the examples, in [0, 1]."""
    return COMPLETED * share


def measure_undone(
    trained: TrainedModel,
    leaving: Tensor,
    whole: Tensor,
    whole_at_point: Tensor | None,
    *,
    share: float,
    linearise_at: float,
    completion: float | None,
) -> Undone:
    """Hold what training left undone against what leaves; costs no round.

    Args:
        trained: The model.
        leaving: -(n_f/n_r) grad F_f(u), shape (d,).
        whole: grad F(w^), shape (d,).
        whole_at_point: grad F(u), shape (d,); None where u is w^.
        share: n_f/n.
        linearise_at: a, the share of the way from w0 to w^ at which u lies.
        completion: c, where the user gave it.

    Returns:
        What was measured, with the completion that was given or that follows from it.
    """
    ahead, least_damping = _along_the_way(trained, whole, whole_at_point, linearise_at)
    undone, leaves = norm(whole) / (1.0 - share), norm(leaving)
    return Undone(
        gradient_norm=norm(whole),
        over_leaving=undone / leaves if leaves > 0.0 else 0.0,
        ahead=ahead,
        completion=completion_of(share) if completion is None else completion,
        least_damping=least_damping,
    )


def _along_the_way(
    trained: TrainedModel, whole: Tensor, whole_at_point: Tensor | None, linearise_at: float
) -> tuple[float | None, float]:
    """Return how much further training would go, and the least damping, from the way from w0."""
    start, end = trained.initial, trained.weights
    if start is None:  # nobody kept it: the way is not known
        return None, 0.0
    # <v, d> as a difference, so that no further vector of length d is held.
    pull = dot(whole, start) - dot(whole, end)
    square = max(0.0, dot(end, end) - 2.0 * dot(end, start) + dot(start, start))
    ahead = None
    if whole_at_point is not None:
        pull_at_point = dot(whole_at_point, start) - dot(whole_at_point, end)
        ahead = _ahead(pull, (pull_at_point - pull) / (1.0 - linearise_at))
    return ahead, 0.5 * max(0.0, pull) / square if square > 0.0 else 0.0


def _ahead(pull: float, curvature: float) -> float:
    """Return the Newton step of F along the way of training, as a share of that way.

    Args:
        pull: -<grad F(w^), d>.
        curvature: <d, H d>; where it is not positive the way has no end in sight.
    """
    if pull <= 0.0:
        return 0.0
    return pull / curvature if curvature * 1e12 > pull else 1e12
