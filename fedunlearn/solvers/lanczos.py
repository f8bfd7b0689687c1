"""Orthonormal Krylov bases by Lanczos' method with full reorthogonalisation.

Source: Lanczos 1950; Cartis, Gould, Toint 2011 (ARC), section 6; for the restart at a breakdown,
Conn, Gould, Toint, *Trust-Region Methods*, 5.2.1 and 7.5.4.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from fedunlearn.errors import NonFiniteError
from fedunlearn.solvers.linear_operator import LinearOperator
from fedunlearn.vectors import norm

RESTART_SEED = 0x5EED


@dataclass(frozen=True, eq=False, kw_only=True)
class KrylovBasis(ABC):
    """A symmetric operator seen from the subspace that k products have opened.

    With Q the basis, H the operator and q the next basis vector: H Q = Q T + beta q e_k'.

    Attributes:
        projection: T = Q'HQ of shape (k, k), symmetric, float64.
        gradient: Q'g of shape (k,), float64; only its first entry differs from zero.
        coupling: beta, what the operator leaks out of the subspace from its last vector.
        exhausted: No direction is left that the gradient can reach (or none at all).
    """

    projection: Tensor
    gradient: Tensor
    coupling: float
    exhausted: bool

    @property
    def size(self) -> int:
        """Number of basis vectors k."""
        return self.projection.shape[0]

    @property
    def products(self) -> int:
        """Products spent so far."""
        return self.size

    @abstractmethod
    def lift(self, coordinates: Tensor) -> Tensor:
        """Map coordinates (k,) or (k, m) in the basis to vectors (d,) or (d, m)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class StoredBasis(KrylovBasis):
    """A basis whose vectors are at hand.

    Attributes:
        vectors: Q of shape (d, k), orthonormal columns, in the operator's dtype.
    """

    vectors: Tensor

    @override
    def lift(self, coordinates: Tensor) -> Tensor:
        rows = coordinates.reshape(self.size, -1).T.to(self.vectors.dtype)
        return (rows @ self.vectors.T).T.reshape(len(self.vectors), *coordinates.shape[1:])

    def leading(self, size: int) -> StoredBasis:
        """Return the basis as it was after the first ``size`` products."""
        if not 1 <= size <= self.size:
            raise ValueError(f"size must be between 1 and {self.size}, got {size}")
        if size == self.size:
            return self
        return StoredBasis(
            vectors=self.vectors[:, :size],
            projection=self.projection[:size, :size],
            gradient=self.gradient[:size],
            coupling=float(self.projection[size, size - 1]),
            exhausted=False,
        )


def lanczos(operator: LinearOperator, gradient: Tensor, max_products: int) -> Iterator[StoredBasis]:
    """Grow a basis from the gradient, one product at a time.

    A breakdown (an invariant subspace, a zero gradient) ends the basis of a positive semidefinite
    operator, since the rest of the space does not meet the gradient. Any other operator may have
    negative curvature in the rest, so its basis continues from a random vector.

    Args:
        operator: The symmetric operator H on R^d.
        gradient: g of shape (d,).
        max_products: How many products may be spent; at most d are.

    Yields:
        The basis after each product. Each shares memory with the next; the last has every vector.

    Raises:
        NonFiniteError: The gradient or a product holds NaN or infinity.
    """
    dimension, dtype = operator.dimension, operator.dtype
    limit = min(max_products, dimension)
    length = finite_norm(gradient, "the gradient")
    vectors = torch.empty(limit, dimension, dtype=dtype)  # one row a vector: rows are contiguous
    projection = torch.zeros(limit, limit, dtype=torch.float64)
    coordinates = torch.zeros(limit, dtype=torch.float64)
    generator = torch.Generator().manual_seed(RESTART_SEED)

    if length > 0.0:
        candidate: Tensor | None = (gradient / length).to(dtype)
        coordinates[:1] = length
        del gradient  # a caller who keeps no reference gets its memory back
    elif operator.positive_semidefinite:
        candidate = None
    else:
        candidate = _random_direction(vectors[:0], generator)
    scale = 0.0

    size = 0
    while size < limit and candidate is not None:
        vectors[size] = candidate
        candidate = None  # its memory is needed for the product
        basis = vectors[: size + 1]
        image = operator.matmat(basis[size][:, None])[:, 0]
        scale = max(scale, finite_norm(image, f"product {size + 1}"))
        rest, overlaps = _orthogonalise(image, basis)
        del image
        projection[: size + 1, size] = overlaps
        projection[size, : size + 1] = overlaps
        size += 1

        coupling = norm(rest)
        broken = coupling <= 8 * torch.finfo(dtype).eps * dimension**0.5 * scale
        if not broken:
            candidate = rest.div_(coupling)
            if size < limit:
                # Cleans what the division magnified; the second pass is enough (Kahan, Parlett).
                candidate, _ = _orthogonalise(candidate, basis)
                candidate.div_(norm(candidate))
            del rest
        elif operator.positive_semidefinite or size == dimension:
            candidate = None
        else:
            candidate = _random_direction(basis, generator)
        yield StoredBasis(
            vectors=vectors[:size].T,
            projection=projection[:size, :size].clone(),
            gradient=coordinates[:size].clone(),
            coupling=0.0 if broken else coupling,
            exhausted=candidate is None or size == dimension,
        )


def _orthogonalise(vector: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Remove the rows of basis (k, d) from a vector (d,), twice; return what was removed too."""
    overlaps = basis @ vector
    rest = torch.addmv(vector, basis.T, overlaps, alpha=-1.0)
    again = basis @ rest
    rest.addmv_(basis.T, again, alpha=-1.0)
    return rest, overlaps.double() + again.double()


def _random_direction(basis: Tensor, generator: torch.Generator) -> Tensor:
    vector = torch.randn(basis.shape[1], generator=generator, dtype=torch.float64).to(basis.dtype)
    for _ in range(2):
        vector, _ = _orthogonalise(vector, basis)
        vector.div_(norm(vector))
    return vector


def finite_norm(vector: Tensor, what: str) -> float:
    """Return the norm of a vector (d,).

    Raises:
        NonFiniteError: The tensor holds NaN or infinity; the message names ``what``.
    """
    length = norm(vector)
    if not length < float("inf"):
        raise NonFiniteError(f"{what} is not finite: check the model's weights and the data")
    return length
