"""What a subspace sees of some examples: a few kilobytes that add up over examples and nodes.

With Q (d, q) the orthonormal basis of the subspace, g the sum of the examples' gradients at a point
and H the curvature of the sum of their losses there: Q'g and Q'HQ. Sums, not means, and without a
regulariser.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Summary:
    """Sums over some examples, as the subspace sees them; float64.

    Attributes:
        examples: How many.
        mass: The sum of their weights (step_weights.py); as much where every example counts once.
        square: |g|^2, summed over the groups that were added up.
        outside: The part of it that lies outside of the subspace, |g|^2 - |Q'g|^2, summed over the
            groups that were added up.
        gradient: Q'g, shape (q,).
        curvature: Q'HQ, shape (q, q), symmetric.
    """

    examples: int
    mass: float
    square: float
    outside: float
    gradient: FloatArray
    curvature: FloatArray

    @classmethod
    def nothing(cls, size: int) -> Summary:
        """Return the summary of no examples in a subspace of q = ``size`` dimensions."""
        return cls(0, 0.0, 0.0, 0.0, np.zeros(size), np.zeros((size, size)))

    def __add__(self, other: Summary) -> Summary:
        """Join examples."""
        return Summary(
            self.examples + other.examples,
            self.mass + other.mass,
            self.square + other.square,
            self.outside + other.outside,
            self.gradient + other.gradient,
            self.curvature + other.curvature,
        )

    def __sub__(self, other: Summary) -> Summary:
        """Take examples away."""
        return Summary(
            self.examples - other.examples,
            self.mass - other.mass,
            self.square - other.square,
            self.outside - other.outside,
            self.gradient - other.gradient,
            self.curvature - other.curvature,
        )

    def times(self, factor: float) -> Summary:
        """Return the summary of the same examples with this multiple of their weights."""
        return Summary(
            self.examples,
            factor * self.mass,
            factor**2 * self.square,
            factor**2 * self.outside,
            factor * self.gradient,
            factor * self.curvature,
        )

    def within(self, coordinates: FloatArray) -> Summary:
        """Return what a smaller subspace sees of one group, or of sums but for ``outside``.

        Args:
            coordinates: Its orthonormal basis (q, p) in coordinates of this one.
        """
        along = coordinates.T @ self.gradient
        lost = float(self.gradient @ self.gradient - along @ along)
        curvature = coordinates.T @ self.curvature @ coordinates
        symmetric = (curvature + curvature.T) / 2
        outside = self.outside + lost
        return Summary(self.examples, self.mass, self.square, outside, along, symmetric)


def from_upper(entries: FloatArray, size: int) -> FloatArray:
    """Return the symmetric matrix (q, q) whose upper triangle, by rows, has these entries."""
    matrix = np.zeros((size, size))
    rows, columns = np.triu_indices(size)
    matrix[rows, columns] = entries
    matrix[columns, rows] = entries
    return matrix


def packed_size(size: int) -> int:
    """Return how many numbers a packed summary has: q (q + 3) / 2 + 3."""
    return size * (size + 3) // 2 + 3


def pack(examples: int, mass: int, gradient: Tensor, along: Tensor, curvature: Tensor) -> Tensor:
    """Put a summary into a row, as it travels.

    Args:
        examples: How many.
        mass: The sum of their weights.
        gradient: g, shape (d,); of it only the norm goes along.
        along: Q'g, shape (q,).
        curvature: Q'HQ, shape (q, q); symmetric but for rounding.

    Returns:
        Shape (q (q + 3) / 2 + 3,), in the dtype of the gradient.
    """
    symmetric = (curvature + curvature.T) / 2
    rows, columns = torch.triu_indices(*curvature.shape)
    head = gradient.new_tensor([examples, mass, float(gradient.double().square().sum())])
    return torch.cat([head, along, symmetric[rows, columns]])


def unpack(row: Tensor, size: int) -> Summary:
    """Read a packed summary of a subspace of q = ``size`` dimensions."""
    values = row.double().numpy()
    curvature = from_upper(values[3 + size :], size)
    along, square = values[3 : 3 + size].copy(), float(values[2])
    outside = max(0.0, square - float(along @ along))
    return Summary(round(values[0]), float(values[1]), square, outside, along, curvature)
