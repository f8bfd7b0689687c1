"""The directions that a recording keeps: Q' (q, d), in memory or in a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor
from typing_extensions import override

from fedunlearn.federation.subspace_summary import Vector

# Of the rows that are widened, or mapped from a file, at the same time.
AT_ONCE_BYTES = 200 * 2**20


class Basis(ABC):
    """Orthonormal rows (q, d), handed out a few at a time.

    Attributes:
        size: q.
        dimension: d.
        precision: In which they are kept.
    """

    size: int
    dimension: int
    precision: torch.dtype

    @abstractmethod
    def rows(self, start: int, stop: int) -> Tensor:
        """Return some of the rows, as they are kept."""

    def pieces(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield which rows, and the rows (m, d), as float32 or wider."""
        widened = torch.promote_types(self.precision, torch.float32)
        bytes_a_row = self.dimension * (self.precision.itemsize + widened.itemsize)
        if widened is self.precision:
            bytes_a_row = self.dimension * widened.itemsize
        count = max(1, AT_ONCE_BYTES // bytes_a_row)
        for start in range(0, self.size, count):
            stop = min(self.size, start + count)
            yield slice(start, stop), self.rows(start, stop).to(widened)

    def moved(self, weights: Tensor, coordinates: Vector) -> Tensor:
        """Return weights + Q y, shape (d,), for weights (d,) and y (q,)."""
        moved = weights.clone()
        for which, rows in self.pieces():
            along = torch.from_numpy(coordinates[which]).to(weights.dtype)
            moved.addmv_(rows.to(weights.dtype).T, along)
            del rows  # before the next come
        return moved

    def whole(self) -> Tensor:
        """Return all rows (q, d), as float32 or wider."""
        return torch.cat([rows for _, rows in self.pieces()])


class MemoryBasis(Basis):
    """A basis in memory."""

    def __init__(self, rows: Tensor) -> None:
        """Take orthonormal rows (q, d)."""
        self._rows = rows
        self.size, self.dimension = rows.shape
        self.precision = rows.dtype

    @override
    def rows(self, start: int, stop: int) -> Tensor:
        return self._rows[start:stop]
