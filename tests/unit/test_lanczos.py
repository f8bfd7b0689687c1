from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fedunlearn.errors import NonFiniteError
from fedunlearn.solvers.lanczos import KrylovBasis, lanczos
from fedunlearn.solvers.linear_operator import DenseOperator, LinearOperator
from tests.cases import OPERATORS, CountingOperator

DTYPES = [torch.float32, torch.float64]
CLUSTERED = "all eigenvalues within 1e4 roundings"  # little is left of a product but rounding
KINDS = [CLUSTERED, "easy", "indefinite", "repeated leftmost", "hard", "wildly scaled, indefinite"]


def _problem(kind: str, dimension: int, dtype: torch.dtype) -> tuple[DenseOperator, Tensor]:
    case = OPERATORS["easy" if kind == CLUSTERED else kind].build(17, dimension)
    matrix = case.matrix
    if kind == CLUSTERED:
        matrix = torch.eye(dimension, dtype=torch.float64) + 1e4 * torch.finfo(dtype).eps * matrix
    return DenseOperator(matrix.to(dtype)), case.gradient.to(dtype)


def _last(operator: LinearOperator, gradient: Tensor, products: int) -> KrylovBasis:
    *_, basis = lanczos(operator, gradient, products)
    return basis


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_basis_is_orthonormal_and_keeps_the_lanczos_relation(kind: str, dtype: torch.dtype) -> None:
    operator, gradient = _problem(kind, 500, dtype)
    basis = _last(operator, gradient, 61).leading(60)
    following = _last(operator, gradient, 61).vectors[:, 60].double()
    vectors, matrix = basis.vectors.double(), operator.matrix.double()
    rounding = 50 * torch.finfo(dtype).eps
    spread = float(torch.linalg.matrix_norm(matrix, 2))

    assert basis.vectors.dtype == dtype
    assert basis.projection.dtype == basis.gradient.dtype == torch.float64
    assert torch.equal(basis.projection, basis.projection.T)

    gram = vectors.T @ vectors
    torch.testing.assert_close(gram, torch.eye(60).double(), rtol=0.0, atol=rounding)

    projected = vectors.T @ matrix @ vectors
    torch.testing.assert_close(basis.projection, projected, rtol=0.0, atol=rounding * spread)

    leak = matrix @ vectors - vectors @ basis.projection
    expected = torch.zeros_like(leak)
    expected[:, -1] = basis.coupling * following
    torch.testing.assert_close(leak, expected, rtol=0.0, atol=rounding * spread)
    assert basis.coupling > 0.0

    in_basis = vectors.T @ gradient.double()
    torch.testing.assert_close(
        basis.gradient, in_basis, rtol=0.0, atol=rounding * float(gradient.norm())
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 7, 19, 20])
def test_leading_is_the_run_with_fewer_products(size: int, dtype: torch.dtype) -> None:
    operator, gradient = _problem("indefinite", 50, dtype)
    cut, short = _last(operator, gradient, 20).leading(size), _last(operator, gradient, size)
    assert cut.size == short.size == size
    assert cut.exhausted == short.exhausted is False
    assert torch.equal(cut.vectors, short.vectors)
    rounding = 50 * torch.finfo(dtype).eps
    torch.testing.assert_close(cut.projection, short.projection, rtol=0.0, atol=rounding)
    torch.testing.assert_close(cut.gradient, short.gradient, rtol=0.0, atol=0.0)
    assert cut.coupling == pytest.approx(short.coupling, rel=1e-9, abs=rounding)


@pytest.mark.parametrize("size", [0, 21])
def test_leading_beyond_the_basis_is_refused(size: int) -> None:
    operator, gradient = _problem("easy", 50, torch.float64)
    with pytest.raises(ValueError, match="between 1 and 20"):
        _last(operator, gradient, 20).leading(size)


def test_each_yield_is_one_product_and_keeps_its_values() -> None:
    operator, gradient = _problem("indefinite", 30, torch.float64)
    counting = CountingOperator(operator)
    bases = []
    for basis in lanczos(counting, gradient, 12):
        bases.append(basis)
        assert counting.calls == counting.vectors == basis.size == len(bases)
    assert len(bases) == 12
    for basis in bases:
        torch.testing.assert_close(
            basis.vectors.T @ operator.matrix @ basis.vectors,
            basis.projection,
            rtol=0.0,
            atol=1e-13,
        )


@pytest.mark.parametrize("budget", [8, 9, 1000])
def test_at_most_d_products_are_spent(budget: int) -> None:
    operator, gradient = _problem("indefinite", 8, torch.float64)
    counting = CountingOperator(operator)
    basis = _last(counting, gradient, budget)
    assert counting.calls == basis.size == 8
    assert basis.exhausted


def _split(reached: list[float], hidden: list[float]) -> tuple[Tensor, Tensor]:
    """Build a matrix whose eigenvalues ``hidden`` the gradient cannot reach, and the gradient."""
    eigenvalues = torch.tensor(reached + hidden, dtype=torch.float64)
    gradient = torch.zeros_like(eigenvalues)
    gradient[: len(reached)] = 1.0
    return torch.diag(eigenvalues), gradient


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_breakdown_ends_the_basis_of_a_semidefinite_operator(dtype: torch.dtype) -> None:
    matrix, gradient = _split([1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0])
    operator = CountingOperator(DenseOperator(matrix.to(dtype), positive_semidefinite=True))
    basis = _last(operator, gradient.to(dtype), 7)
    assert operator.calls == basis.size == 3
    assert basis.exhausted
    assert basis.coupling == 0.0
    ritz = torch.linalg.eigvalsh(basis.projection)
    expected = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(ritz, expected, rtol=0.0, atol=50 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_breakdown_does_not_hide_negative_curvature(dtype: torch.dtype) -> None:
    matrix, gradient = _split([1.0, 2.0, 3.0], [-5.0, 4.0, 6.0, 7.0])
    operator = DenseOperator(matrix.to(dtype))
    bases = list(lanczos(operator, gradient.to(dtype), 7))
    assert [basis.exhausted for basis in bases] == [False] * 6 + [True]
    assert bases[2].coupling == 0.0
    assert float(torch.linalg.eigvalsh(bases[2].projection)[0]) > 0.9
    leftmost = float(torch.linalg.eigvalsh(bases[-1].projection)[0])
    assert leftmost == pytest.approx(-5.0, rel=50 * torch.finfo(dtype).eps)
    gram = bases[-1].vectors.T @ bases[-1].vectors
    rounding = 50 * torch.finfo(dtype).eps
    torch.testing.assert_close(gram, torch.eye(7, dtype=dtype), rtol=0.0, atol=rounding)


def test_zero_gradient_yields_nothing_where_nothing_can_be_hidden() -> None:
    operator = CountingOperator(
        DenseOperator(torch.eye(4, dtype=torch.float64), positive_semidefinite=True)
    )
    assert list(lanczos(operator, torch.zeros(4, dtype=torch.float64), 4)) == []
    assert operator.calls == 0


def test_zero_gradient_searches_an_operator_that_may_be_indefinite() -> None:
    operator, _ = _problem("indefinite", 20, torch.float64)
    basis = _last(operator, torch.zeros(20, dtype=torch.float64), 20)
    assert basis.exhausted
    assert not basis.gradient.any()
    assert float(torch.linalg.eigvalsh(basis.projection)[0]) == pytest.approx(-1.0, rel=1e-12)


def test_the_zero_operator_is_exhausted_by_one_product() -> None:
    operator = DenseOperator(torch.zeros(5, 5, dtype=torch.float64), positive_semidefinite=True)
    basis = _last(operator, torch.ones(5, dtype=torch.float64), 5)
    assert basis.size == 1
    assert basis.exhausted
    assert not basis.projection.any()


class _Failing(LinearOperator):
    """A matrix whose third product holds one number that is not finite."""

    def __init__(self, matrix: Tensor, bad: float) -> None:
        self.matrix, self.bad, self.calls = matrix, bad, 0
        self.dimension, self.dtype = matrix.shape[0], matrix.dtype

    def matmat(self, vectors: Tensor) -> Tensor:
        self.calls += 1
        image = self.matrix @ vectors
        if self.calls == 3:
            image[2, 0] = self.bad
        return image


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused_at_once(bad: float) -> None:
    operator, gradient = _problem("easy", 10, torch.float64)
    failing = _Failing(operator.matrix, bad)
    with pytest.raises(NonFiniteError, match="product 3 is not finite"):
        _last(failing, gradient, 10)
    assert failing.calls == 3

    counting = CountingOperator(operator)
    gradient[4] = bad
    with pytest.raises(NonFiniteError, match="the gradient is not finite"):
        _last(counting, gradient, 10)
    assert counting.calls == 0
