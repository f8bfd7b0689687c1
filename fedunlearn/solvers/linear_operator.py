"""Symmetric linear operators, known only by their products."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from typing_extensions import override


class LinearOperator(ABC):
    """A symmetric operator on R^d.

    Attributes:
        dimension: d.
        dtype: Type of the vectors it takes and returns.
        positive_semidefinite: True where every v satisfies v'Hv >= 0 by construction; solvers may
            then skip the search for negative curvature.
    """

    dimension: int
    dtype: torch.dtype
    positive_semidefinite: bool = False

    @abstractmethod
    def matmat(self, vectors: Tensor) -> Tensor:
        """Multiply several vectors at once; in a federation one call is one round.

        Args:
            vectors: V of shape (d, k).

        Returns:
            HV of shape (d, k).
        """


class DenseOperator(LinearOperator):
    """A symmetric matrix that is at hand."""

    def __init__(self, matrix: Tensor, *, positive_semidefinite: bool = False) -> None:
        """Wrap a matrix.

        Args:
            matrix: Symmetric, of shape (d, d).
            positive_semidefinite: Promise that it is so.
        """
        self.matrix = matrix
        self.dimension = matrix.shape[0]
        self.dtype = matrix.dtype
        self.positive_semidefinite = positive_semidefinite

    @override
    def matmat(self, vectors: Tensor) -> Tensor:
        return self.matrix @ vectors
