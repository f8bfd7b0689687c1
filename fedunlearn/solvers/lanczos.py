"""Orthonormal Krylov bases by Lanczos' method with full reorthogonalisation.

Source: Lanczos 1950; Cartis, Gould, Toint 2011 (ARC), section 6; for the restart at a breakdown,
Conn, Gould, Toint, *Trust-Region Methods*, 5.2.1 and 7.5.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fedunlearn.errors import NonFiniteError
from fedunlearn.solvers.operator import LinearOperator

RESTART_SEED = 0x5EED


@dataclass(frozen=True, eq=False)
class KrylovBasis:
    """A symmetric operator seen from the subspace that k products have opened.

    With Q the basis, H the operator and q the next basis vector: H Q = Q T + beta q e_k'.

    Attributes:
        vectors: Q of shape (d, k), orthonormal columns, in the operator's dtype.
        projection: T = Q'HQ of shape (k, k), symmetric, float64.
        gradient: Q'g of shape (k,), float64; only its first entry differs from zero.
        coupling: beta, what the operator leaks out of the subspace from its last vector.
        exhausted: No direction is left that the gradient can reach (or none at all).
    """

    vectors: Tensor
    projection: Tensor
    gradient: Tensor
    coupling: float
    exhausted: bool

    @property
    def size(self) -> int:
        """Number of basis vectors, hence of products spent."""
        return self.vectors.shape[1]

    def lift(self, coordinates: Tensor) -> Tensor:
        """Map coordinates of shape (k,) in the basis to a vector of shape (d,)."""
        return self.vectors @ coordinates.to(self.vectors.dtype)

    def leading(self, size: int) -> KrylovBasis:
        """Return the basis as it was after the first ``size`` products."""
        if not 1 <= size <= self.size:
            raise ValueError(f"size must be between 1 and {self.size}, got {size}")
        if size == self.size:
            return self
        return KrylovBasis(
            vectors=self.vectors[:, :size],
            projection=self.projection[:size, :size],
            gradient=self.gradient[:size],
            coupling=float(self.projection[size, size - 1]),
            exhausted=False,
        )


def lanczos(operator: LinearOperator, gradient: Tensor, max_products: int) -> Iterator[KrylovBasis]:
    """Grow a basis from the gradient, one product at a time.

    A breakdown (an invariant subspace, a zero gradient) ends the basis of a positive semidefinite
    operator, which has nothing more to tell about the gradient. Any other operator may hide
    negative curvature in the rest: there the basis goes on from a random vector.

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
    norm = _finite_norm(gradient, "the gradient")
    vectors = torch.empty(limit, dimension, dtype=dtype)  # one row a vector: rows are contiguous
    projection = torch.zeros(limit, limit, dtype=torch.float64)
    coordinates = torch.zeros(limit, dtype=torch.float64)
    generator = torch.Generator().manual_seed(RESTART_SEED)

    if norm > 0.0:
        candidate: Tensor | None = (gradient / norm).to(dtype)
        coordinates[:1] = norm
    elif operator.positive_semidefinite:
        candidate = None
    else:
        candidate = _random_direction(vectors[:0], generator)
    scale = 0.0

    size = 0
    while size < limit and candidate is not None:
        vectors[size] = candidate
        image = operator.matmat(candidate[:, None])[:, 0]
        scale = max(scale, _finite_norm(image, f"product {size + 1}"))
        basis = vectors[: size + 1]
        rest, overlaps = _orthogonalise(image, basis)
        projection[: size + 1, size] = overlaps
        projection[size, : size + 1] = overlaps
        size += 1

        coupling = float(rest.double().norm())
        broken = coupling <= 8 * torch.finfo(dtype).eps * dimension**0.5 * scale
        if not broken:
            candidate = rest / coupling
            if size < limit:
                # Cleans what the division magnified; the second pass is enough (Kahan, Parlett).
                candidate, _ = _orthogonalise(candidate, basis)
                candidate = candidate / candidate.norm()
        elif operator.positive_semidefinite or size == dimension:
            candidate = None
        else:
            candidate = _random_direction(basis, generator)
        yield KrylovBasis(
            vectors=vectors[:size].T,
            projection=projection[:size, :size].clone(),
            gradient=coordinates[:size].clone(),
            coupling=0.0 if broken else coupling,
            exhausted=candidate is None or size == dimension,
        )


def _orthogonalise(vector: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Remove the rows of basis (k, d) from a vector (d,), twice; return what was removed too."""
    overlaps = basis @ vector
    rest = vector - overlaps @ basis
    again = basis @ rest
    rest = rest - again @ basis
    return rest, overlaps.double() + again.double()


def _random_direction(basis: Tensor, generator: torch.Generator) -> Tensor:
    vector = torch.randn(basis.shape[1], generator=generator, dtype=torch.float64).to(basis.dtype)
    for _ in range(2):
        vector, _ = _orthogonalise(vector, basis)
        vector = vector / vector.norm()
    return vector


def _finite_norm(vector: Tensor, what: str) -> float:
    norm = float(vector.double().norm())
    if not norm < float("inf"):
        raise NonFiniteError(f"{what} is not finite: check the model's weights and the data")
    return norm
