"""The part of training that is unfinished, and how much of it a removal completes.

A model that is retrained without the forget set stops as early as the trained one did. Along a
direction of curvature h and after a time T of gradient flow both lack a share e^(-hT) of their way,
and the difference between them is

    (1 - e^(-hT)) / h  times  grad F - grad F_r = (n_f/n_r) (grad F_f - grad F),

all gradients at w^. So the gradient of the step is -(n_f/n_r) grad F_f, plus the share n_f/n of
(n/n_r) grad F(w^): the rest of the unfinished training is missing in the retrained model too, and a
step that followed all of it would train instead of unlearn. Where training converged grad F(w^) is
small, and the share hardly matters.

The first factor is about T where hT is small. A step therefore needs at least the damping 1/T in
directions that training had not finished; with less damping it follows the noise in the remainder
of grad F_f - grad F. The gradients give 1/T without the rates of training, which other optimisers
do not have: with d = w^ - w0, -<grad F(w^), d> / <d, d> is h / (e^(hT) - 1), that is 1/T where
training had hardly begun and 0 where it converged. Half of it is the least damping that is tried,
as in a recording (``natural_damping``).

This was measured on digits, and checked on FashionMNIST, from 3 rounds of training to 60.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scipy.optimize import brentq
from torch import Tensor

from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.vectors import dot, norm

# From the duration of training, what is ahead counts the noise of the last rounds too: 1.3 to 1.9
# of the way on digits where a second gradient shows 0.14 to 0.27, and no end where training had
# hardly begun.
MOST_AHEAD, MOST_AHEAD_BY_TIME = 1.0, 4.0

REMEDY = "train further before the removal, add recovery rounds, or retrain"


@dataclass(frozen=True)
class Undone:
    """The unfinished training, compared with the forget set.

    Attributes:
        gradient_norm: The norm ||grad F(w^)||.
        over_leaving: The ratio of (n/n_r) ||grad F(w^)|| to (n_f/n_r) ||grad F_f(u)||: more than 1
            where the unfinished training outweighs the forget set.
        ahead: How much further training would move, as a multiple of the way from w0 to w^: the
            Newton step of F along that way. None where neither grad F at a second point nor the
            duration of training is known.
        completion: The share c of (n/n_r) grad F(w^) that the step follows.
        least_damping: The damping below which directions that training had not finished are noise,
            in units of curvature.
        by_time: Whether ``ahead`` follows from the duration of training, not from a second point.
    """

    gradient_norm: float
    over_leaving: float
    ahead: float | None
    completion: float
    least_damping: float
    by_time: bool = False

    @property
    def outweighs(self) -> bool:
        """Whether the unfinished training outweighs the forget set."""
        return self.over_leaving > 1.0

    @property
    def converged(self) -> bool:
        """Whether training covered more than half of its way, as far as the gradients show."""
        most = MOST_AHEAD_BY_TIME if self.by_time else MOST_AHEAD
        return self.ahead is None or self.ahead <= most

    @property
    def remark(self) -> str | None:
        """The warning for the user, with the remedy; None where there is none."""
        if not self.converged:
            what = "training had not converged"
            if self.outweighs:
                what += ", and what it left undone outweighs the forget set"
            return f"{what}: {REMEDY}"
        if self.outweighs:
            return f"what training left undone outweighs the forget set: {REMEDY}"
        return None

    def as_dict(self) -> Mapping[str, float]:
        """Return all values in a form that JSON can hold, without those that are not known."""
        values = {
            "gradient_norm_at_trained": self.gradient_norm,
            "undone_over_leaving": self.over_leaving,
            "completion": self.completion,
            "least_damping": self.least_damping,
        }
        return values if self.ahead is None else values | {"training_ahead": self.ahead}


def completion_of(share: float) -> float:
    """Return the completion c of a removal of a share n_f/n of the examples, in [0, 1]."""
    return share


def measure_undone(
    trained: TrainedModel,
    leaving: Tensor,
    whole: Tensor,
    whole_at_point: Tensor | None,
    *,
    share: float,
    linearise_at: float,
    completion: float | None,
    time: float | None = None,
) -> Undone:
    """Compare the unfinished training with the forget set, without a round.

    Args:
        trained: The model.
        leaving: The vector -(n_f/n_r) grad F_f(u), shape (d,).
        whole: The gradient grad F(w^), shape (d,).
        whole_at_point: The gradient grad F(u), shape (d,); None where u is w^.
        share: The share n_f/n of the forget set in the examples.
        linearise_at: The share a of the way from w0 to w^ at which u lies.
        completion: The share c, where the user gave it.
        time: The time T of gradient flow that equals training; None where it is not known.

    Returns:
        The measures, with the completion that was given or that follows from them.
    """
    ahead, least_damping = _along_the_way(trained, whole, whole_at_point, linearise_at, time)
    undone, leaves = norm(whole) / (1.0 - share), norm(leaving)
    return Undone(
        gradient_norm=norm(whole),
        over_leaving=undone / leaves if leaves > 0.0 else 0.0,
        ahead=ahead,
        completion=completion_of(share) if completion is None else completion,
        least_damping=least_damping,
        by_time=whole_at_point is None,
    )


def _along_the_way(
    trained: TrainedModel,
    whole: Tensor,
    whole_at_point: Tensor | None,
    linearise_at: float,
    time: float | None,
) -> tuple[float | None, float]:
    """Return how much further training would move, and the least damping."""
    start, end = trained.initial, trained.weights
    if start is None:  # the initial weights were not stored, so the way is not known
        return None, 0.0
    # <v, d> as a difference, so that no further vector of length d is held.
    pull = dot(whole, start) - dot(whole, end)
    square = max(0.0, dot(end, end) - 2.0 * dot(end, start) + dot(start, start))
    ahead = None
    if whole_at_point is not None:
        pull_at_point = dot(whole_at_point, start) - dot(whole_at_point, end)
        ahead = _ahead(pull, (pull_at_point - pull) / (1.0 - linearise_at))
    elif time is not None and square > 0.0:
        ahead = _ahead_after(time * pull / square)
    return ahead, 0.5 * max(0.0, pull) / square if square > 0.0 else 0.0


def _ahead_after(ratio: float) -> float:
    """Return how much further training would move, from its duration and its last gradient.

    With x = hT the ratio T <-grad F, d> / <d, d> is x / (e^x - 1), and what is left is 1 / (e^x -
    1) of the way.

    Args:
        ratio: That ratio, between 0 and 1 on gradient flow.
    """
    if ratio <= 0.0:
        return 0.0
    if ratio >= 1.0 - 1e-12:
        return 1e12
    x = float(brentq(lambda x: x / math.expm1(x) - ratio, 1e-12, 700.0))
    return 1.0 / math.expm1(x)


def _ahead(pull: float, curvature: float) -> float:
    """Return the Newton step of F along the way of training, as a share of that way.

    Args:
        pull: The slope -<grad F(w^), d> along the way.
        curvature: The curvature <d, H d>; where it is not positive the way has no end.
    """
    if pull <= 0.0:
        return 0.0
    return pull / curvature if curvature * 1e12 > pull else 1e12
