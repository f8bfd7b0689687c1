"""Second moments of a linear layer's inputs: sums that add up over examples and nodes.

With X the inputs and Y the targets of some examples: X'X, X'Y and |Y|^2, each with a bound of its
rounding error, so that what is left after many subtractions is known to be accurate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fedunlearn.questions.heads import Head
from fedunlearn.questions.subspace_summary import FloatArray, from_upper
from fedunlearn.risk.head_sums import triangle
from fedunlearn.risk.linear_head import HeadLoss

EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments of some examples; float64.

    Attributes:
        examples: Number of examples.
        square: X'X, shape (p, p).
        cross: X'Y, shape (p, k); k = 0 where it was not requested.
        targets: |Y|^2.
        square_error: Bound of the rounding error of ``square``, in the Frobenius norm.
        cross_error: The same bound for ``cross``.
    """

    examples: int
    square: FloatArray
    cross: FloatArray
    targets: float
    square_error: float = 0.0
    cross_error: float = 0.0

    @classmethod
    def nothing(cls, inputs: int, outputs: int) -> Moments:
        """Return the moments of no examples."""
        return cls(0, np.zeros((inputs, inputs)), np.zeros((inputs, outputs)), 0.0)

    def __add__(self, other: Moments) -> Moments:
        """Join examples."""
        return self._joined(other, 1)

    def __sub__(self, other: Moments) -> Moments:
        """Take examples away."""
        return self._joined(other, -1)

    def _joined(self, other: Moments, sign: int) -> Moments:
        square = self.square + sign * other.square
        cross = self.cross + sign * other.cross
        return Moments(
            self.examples + sign * other.examples,
            square,
            cross,
            self.targets + sign * other.targets,
            self.square_error + other.square_error + EPSILON * float(np.linalg.norm(square)),
            self.cross_error + other.cross_error + EPSILON * float(np.linalg.norm(cross)),
        )


def unpack_moments(row: Tensor, head: Head, inputs: int) -> Moments:
    """Read the moments of a group of examples, which a node has computed.

    The bounds of rounding are those of inner products of n terms (Higham 2002, 3.5):
    n eps |X|_F^2 for X'X, n eps |X|_F |Y|_F for X'Y.

    Args:
        row: As ``risk.head_sums.moments`` returns it.
        head: The layer.
        inputs: Number p of its inputs.

    Returns:
        The moments with bounds of their rounding.
    """
    values = row.double().numpy()
    split = 1 + triangle(inputs)
    square = from_upper(values[1:split], inputs)
    outputs = head.outputs if head.loss is HeadLoss.SQUARED else 0
    cross = values[split : split + inputs * outputs].reshape(inputs, outputs).copy()
    targets = float(values[-1]) if outputs else 0.0
    trace = float(np.trace(square))
    scale = values[0] * EPSILON
    return Moments(
        round(values[0]), square, cross, targets, scale * trace, scale * (trace * targets) ** 0.5
    )
