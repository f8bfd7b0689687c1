"""Lanczos in two passes, for servers on which k vectors of length d do not fit.

The first pass keeps three vectors and the k x k projection, which is all that the choice of a
weight needs. The second repeats the recurrence and adds the vectors up to the step: k - 1 products
more for each time that steps are lifted, all of them together. Without reorthogonalisation a
basis is as good as a stored one until Ritz values converge; ten products seldom get there.

Source: the recurrence of Lanczos 1950; two passes for functions of a matrix, Frommer, Simoncini
2008, section 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from typing_extensions import override

from fedunlearn.solvers.lanczos import KrylovBasis, finite_norm
from fedunlearn.solvers.linear_operator import LinearOperator
from fedunlearn.vectors import dot, norm


class _Recurrence:
    """The three-term recurrence at one of its vectors."""

    def __init__(self, operator: LinearOperator, gradient: Tensor, length: float) -> None:
        self.vector = (gradient / length).to(operator.dtype)
        self._operator = operator
        self._before: Tensor | None = None
        self._coupling = 0.0
        self._scale = 0.0

    def advance(self) -> tuple[float, float]:
        """Spend a product and go to the next vector.

        Returns:
            The diagonal and the off-diagonal entry of the projection; at a breakdown the latter is
            0 and there is no next vector.
        """
        vector = self.vector
        rest = self._operator.matmat(vector[:, None])[:, 0].clone()
        self._scale = max(self._scale, finite_norm(rest, "a product"))
        if self._before is not None:
            rest.add_(self._before, alpha=-self._coupling)
        diagonal = dot(vector, rest)
        rest.add_(vector, alpha=-diagonal)
        again = dot(vector, rest)
        rest.add_(vector, alpha=-again)
        coupling = norm(rest)
        eps = torch.finfo(vector.dtype).eps
        if coupling <= 8 * eps * len(vector) ** 0.5 * self._scale:
            coupling = 0.0
        else:
            self._before, self.vector = vector, rest.div_(coupling)
            self._coupling = coupling
        return diagonal + again, coupling


@dataclass
class _Spent:
    products: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class ReplayedBasis(KrylovBasis):
    """A basis whose vectors are computed anew whenever they are needed.

    Attributes:
        operator: H; its answers must be repeatable.
        start: g of shape (d,).
    """

    operator: LinearOperator
    start: Tensor
    spent: _Spent = field(default_factory=_Spent)

    @property
    @override
    def products(self) -> int:
        return self.spent.products

    @override
    def lift(self, coordinates: Tensor) -> Tensor:
        rows = coordinates.reshape(self.size, -1).T.to(self.operator.dtype)  # (m, k)
        lifted = torch.zeros(len(rows), self.operator.dimension, dtype=self.operator.dtype)
        recurrence = _Recurrence(self.operator, self.start, norm(self.start))
        for number in range(self.size):
            if number:
                recurrence.advance()
                self.spent.products += 1
            for row, share in zip(lifted, rows[:, number], strict=True):
                row.add_(recurrence.vector, alpha=float(share))
        return lifted.T.reshape(self.operator.dimension, *coordinates.shape[1:])


def two_pass_lanczos(
    operator: LinearOperator, gradient: Tensor, max_products: int
) -> Iterator[ReplayedBasis]:
    """Grow a basis from the gradient without keeping its vectors.

    A breakdown ends it: other than ``lanczos``, it cannot look for what the gradient does not
    reach.

    Args:
        operator: The symmetric operator H on R^d.
        gradient: g of shape (d,); kept, not copied.
        max_products: Largest number of products of the first pass; at most d are spent.

    Yields:
        The basis after each product; none for a zero gradient.

    Raises:
        NonFiniteError: The gradient or a product holds NaN or infinity.
    """
    length = finite_norm(gradient, "the gradient")
    limit = min(max_products, operator.dimension)
    if length == 0.0:
        return
    recurrence = _Recurrence(operator, gradient, length)
    projection = torch.zeros(limit, limit, dtype=torch.float64)
    coordinates = torch.zeros(limit, dtype=torch.float64)
    coordinates[0] = length
    spent = _Spent()
    for number in range(limit):
        diagonal, coupling = recurrence.advance()
        spent.products += 1
        projection[number, number] = diagonal
        size = number + 1
        broken = coupling == 0.0
        yield ReplayedBasis(
            projection=projection[:size, :size].clone(),
            gradient=coordinates[:size].clone(),
            coupling=coupling,
            exhausted=size == operator.dimension or (broken and operator.positive_semidefinite),
            operator=operator,
            start=gradient,
            spent=spent,
        )
        if broken:
            return
        if size < limit:
            projection[number, size] = projection[size, number] = coupling
