"""The directions of a recording: Q' (q, d), in memory or in a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor
from typing_extensions import override

from fedunlearn.questions.subspace_summary import FloatArray

# Bytes of the rows that are mapped from a file, or widened for a caller, at the same time.
AT_ONCE_BYTES = 200 * 2**20
# Entries of a row that are widened for a sum while they are in the processor's cache.
WIDENED = 2**16


class Basis(ABC):
    """Orthonormal rows (q, d), returned a few at a time.

    Attributes:
        size: The number q of rows.
        dimension: The length d of a row.
        precision: The dtype in which the rows are stored.
    """

    size: int
    dimension: int
    precision: torch.dtype

    @abstractmethod
    def rows(self, start: int, stop: int) -> Tensor:
        """Return some of the rows, in the stored precision."""

    def pieces(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield slices and their rows (m, d), as float32 or wider."""
        widened = torch.promote_types(self.precision, torch.float32)
        for which in self._some_at_a_time(self.precision.itemsize + widened.itemsize):
            yield which, self.rows(which.start, which.stop).to(widened)

    def _some_at_a_time(self, bytes_an_entry: int) -> Iterator[slice]:
        count = max(1, AT_ONCE_BYTES // (self.dimension * bytes_an_entry))
        for start in range(0, self.size, count):
            yield slice(start, min(self.size, start + count))

    def moved(self, weights: Tensor, coordinates: FloatArray) -> Tensor:
        """Return weights + Q y, shape (d,), for weights (d,) and y (q,)."""
        moved = weights.clone()
        for which in self._some_at_a_time(self.precision.itemsize):
            rows = self.rows(which.start, which.stop)
            along = torch.from_numpy(coordinates[which]).to(weights.dtype)
            for part, columns in zip(moved.split(WIDENED), rows.split(WIDENED, dim=1), strict=True):
                part.addmv_(columns.to(weights.dtype).T, along)
            del rows, columns  # frees them before the next ones are read
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
