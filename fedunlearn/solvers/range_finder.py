"""Orthonormal bases of what gradients and curvature span, from columns that come one by one.

Source: Halko, Martinsson, Tropp 2011, "Finding structure with randomness", sections 4.1 and 4.5,
for the range and for powers of the operator; Brand 2002 for singular vectors of a stream.

Vectors are the rows of matrices (m, d), so that each is contiguous. Inner products are float64.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedunlearn.errors import NonFiniteError
from fedunlearn.solvers.linear_operator import LinearOperator
from fedunlearn.vectors import gram, not_finite

# What is shorter than this share of the longest is rounding of it: some units of rounding a column,
# and what inner products in float64 resolve.
ROUNDINGS = 32.0
RESOLVED = 1e-7


class LeadingDirections:
    """The leading left singular vectors of a matrix whose columns arrive a few at a time.

    Exact while no more than ``size`` of the columns are independent; else what is dropped on the
    way is the smallest at hand. Holds at most 2 size vectors.
    """

    def __init__(self, size: int) -> None:
        """Keep at most ``size`` directions."""
        self.size = size
        self._rows: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        """Take columns in as rows (m, d).

        Raises:
            NonFiniteError: One of them is not finite.
        """
        if not_finite(rows):
            raise NonFiniteError("a gradient is not finite: check the model's weights and the data")
        for some in rows.split(self.size):
            kept = some if self._rows is None else torch.cat([self._rows, some])
            self._rows = kept if len(kept) <= self.size else _leading(kept, self.size, unit=False)

    def basis(self) -> Tensor:
        """Return the directions, orthonormal rows (r, d), leading first; r = 0 for no columns."""
        if self._rows is None:
            raise ValueError("no columns were added")
        return orthonormal(self._rows, self.size)


def orthonormal(rows: Tensor, size: int) -> Tensor:
    """Return at most ``size`` leading directions of the span of rows (m, d), orthonormal rows.

    Dependent and zero rows give none.
    """
    basis = _leading(rows, size, unit=True)
    return _leading(basis, size, unit=True) if len(basis) else basis  # twice is enough


def block_krylov(
    operator: LinearOperator, start: Tensor, depth: int, size: int | None = None
) -> Tensor:
    """Return an orthonormal basis of span(Q0, H Q0, ..., H^depth Q0), or the first of it.

    Args:
        operator: H on R^d; one call a power.
        start: Q0, orthonormal rows (r, d).
        depth: How many powers, at most.
        size: With how many directions to end, the leading ones of the last power; None for all.

    Returns:
        Orthonormal rows, (depth + 1) r at most; ``start`` first.

    Raises:
        NonFiniteError: A product is not finite.
    """
    basis = block = start
    for number in range(depth):
        room = min(operator.dimension, size or operator.dimension) - len(basis)
        if not len(block) or room <= 0:
            break
        images = operator.matmat(block.T).T
        if not_finite(images):
            raise NonFiniteError(
                f"product {number + 1} is not finite: check the model's weights and the data"
            )
        scale = float(gram(images).diagonal().max().sqrt())
        for _ in range(2):
            images = images - (images @ basis.T) @ basis
        block = _leading(images, min(len(block), room), unit=True, scale=scale)
        for _ in range(2):
            block = block - (block @ basis.T) @ basis
            block = _leading(block, len(block), unit=True)
        basis = torch.cat([basis, block])
    return basis


def _leading(rows: Tensor, size: int, *, unit: bool, scale: float = 0.0) -> Tensor:
    """Return rows (m, d) rotated to their leading directions, of length 1 or as long as they are.

    Those below rounding of ``scale``, or of the longest where that is longer, are dropped.
    """
    if not len(rows):
        return rows
    values, vectors = np.linalg.eigh(gram(rows).numpy())
    lengths = np.sqrt(np.maximum(values, 0.0))[::-1]
    rounding = max(RESOLVED, ROUNDINGS * torch.finfo(rows.dtype).eps * len(rows) ** 0.5)
    kept = min(size, int((lengths > rounding * max(scale, lengths[0], 1e-300)).sum()))
    rotation = vectors[:, ::-1][:, :kept]
    if unit:
        rotation = rotation / lengths[:kept]
    return torch.from_numpy(rotation.T.copy(order="C")).to(rows.dtype) @ rows
