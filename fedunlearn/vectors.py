"""Sums over long vectors, in float64 and in pieces, without a copy in double precision."""

from __future__ import annotations

import torch
from torch import Tensor

PIECE = 2**20


def dot(left: Tensor, right: Tensor) -> float:
    """Return the inner product of two vectors (d,), summed in float64."""
    pieces = zip(left.split(PIECE), right.split(PIECE), strict=True)
    return sum(float(one.double() @ other.double()) for one, other in pieces)


def accumulate(total: Tensor, values: Tensor) -> None:
    """Add values to a contiguous float64 total of the same shape, in place."""
    pieces = zip(total.view(-1).split(PIECE), values.reshape(-1).split(PIECE), strict=True)
    for piece, more in pieces:
        piece.add_(more)


def not_finite(values: Tensor) -> int:
    """Return the number of entries of a tensor that are NaN or infinite."""
    return sum(int((~torch.isfinite(piece)).sum()) for piece in values.reshape(-1).split(PIECE))


def norm(vector: Tensor) -> float:
    """Return the Euclidean norm of a vector (d,), summed in float64."""
    pieces = [torch.linalg.vector_norm(piece.double()) for piece in vector.split(PIECE)]
    return float(torch.linalg.vector_norm(torch.stack(pieces)))


def gram(rows: Tensor) -> Tensor:
    """Return the inner products (m, m) of rows (m, d), float64."""
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for piece in rows.split(PIECE // max(1, len(rows)) or 1, dim=1):
        wide = piece.double()
        total += wide @ wide.T
    return total
