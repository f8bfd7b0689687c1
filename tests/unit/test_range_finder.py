"""Bases of ranges and of block Krylov spaces, against dense singular vectors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedunlearn.errors import NonFiniteError
from fedunlearn.solvers.linear_operator import DenseOperator
from fedunlearn.solvers.range_finder import LeadingDirections, block_krylov, orthonormal
from tests.laws import laws

DIMENSION = 60
LAW = laws(50)


def columns(count: int, rank: int, seed: int, *, decay: float = 1.0) -> Tensor:
    """Return rows (count, d) of a rank, whose singular values fall by a factor each."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(count, rank, generator=generator).double())[0]
    right = torch.linalg.qr(torch.randn(DIMENSION, rank, generator=generator).double())[0]
    return (left * decay ** torch.arange(rank)) @ right.T


def same_span(one: Tensor, other: Tensor, tolerance: float) -> bool:
    return bool((one.T @ one - other.T @ other).norm() < tolerance)


@LAW
@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 20), st.integers(0, 99))
def test_columns_of_small_rank_are_spanned_whatever_their_order(
    count: int, rank: int, size: int, seed: int
) -> None:
    rank = min(rank, count, size)
    rows = columns(count, rank, seed)
    finder = LeadingDirections(size)
    for some in rows.split(3):
        finder.add(some)
    basis = finder.basis()
    assert basis.shape == (rank, DIMENSION)
    torch.testing.assert_close(basis @ basis.T, torch.eye(rank).double(), atol=1e-12, rtol=0.0)
    right = torch.linalg.svd(rows)[2][:rank]
    assert same_span(basis, right, 1e-6)


@LAW
@given(st.integers(0, 50))
def test_the_leading_directions_of_a_stream_are_those_of_all(seed: int) -> None:
    """Where singular values fall fast, what was dropped on the way does not matter."""
    rows = columns(40, 30, seed, decay=0.5)
    finder = LeadingDirections(8)
    for some in rows.split(5):
        finder.add(some)
    right = torch.linalg.svd(rows)[2][:4]
    assert float((right @ finder.basis().T).square().sum(1).min()) > 0.99


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bases_are_orthonormal_over_ten_orders_of_magnitude(dtype: torch.dtype) -> None:
    basis = orthonormal(columns(30, 10, 0, decay=0.1).to(dtype), 20)
    identity = torch.eye(len(basis), dtype=dtype)
    tolerance = 1e-6 if dtype is torch.float32 else 1e-13
    torch.testing.assert_close(basis @ basis.T, identity, atol=tolerance, rtol=0.0)
    assert 4 <= len(basis) <= 10


def test_zero_and_repeated_columns_give_no_direction() -> None:
    one = torch.randn(1, DIMENSION)
    assert len(orthonormal(torch.zeros(3, DIMENSION), 3)) == 0
    assert len(orthonormal(one.repeat(4, 1), 3)) == 1


@LAW
@given(st.integers(1, 6), st.integers(0, 4), st.integers(0, 99))
def test_block_krylov_spans_the_powers(start: int, depth: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(DIMENSION, DIMENSION, generator=generator).double()
    operator = DenseOperator(square + square.T)
    first = torch.linalg.qr(torch.randn(DIMENSION, start, generator=generator).double())[0].T
    basis = block_krylov(operator, first, depth)
    assert basis.shape == (start * (depth + 1), DIMENSION)
    torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis)).double(), atol=1e-11, rtol=0)
    torch.testing.assert_close(basis[:start], first)
    block = first.T
    for _ in range(depth + 1):
        outside = block - basis.T @ (basis @ block)
        assert float(outside.norm() / block.norm()) < 1e-7
        block = operator.matrix @ block


def test_block_krylov_ends_where_the_space_does() -> None:
    operator = DenseOperator(torch.diag(torch.tensor([1.0, 1.0, 2.0, 0.0])).double())
    first = torch.eye(4).double()[:2]
    assert len(block_krylov(operator, first, 5)) == 2  # invariant
    mixed = torch.tensor([[1.0, 0.0, 1.0, 0.0]]).double() / 2**0.5
    assert len(block_krylov(operator, mixed, 5)) == 2
    everything = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double()
    full = DenseOperator(everything + everything.T)
    assert len(block_krylov(full, torch.eye(4).double()[:3], 5)) == 4


def test_nan_is_refused() -> None:
    with pytest.raises(NonFiniteError, match="gradient"):
        LeadingDirections(3).add(torch.full((1, 5), float("nan")))
    operator = DenseOperator(torch.full((5, 5), float("inf")))
    with pytest.raises(NonFiniteError, match="product 1"):
        block_krylov(operator, torch.eye(5)[:2], 1)


def test_a_basis_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no columns"):
        LeadingDirections(3).basis()


@pytest.mark.parametrize(("depth", "size", "rows"), [(4, 7, 7), (1, 30, 6), (9, 12, 12), (3, 2, 3)])
def test_block_krylov_ends_with_the_size_it_is_given(depth: int, size: int, rows: int) -> None:
    square = torch.randn(DIMENSION, DIMENSION, generator=torch.Generator().manual_seed(1)).double()
    first = torch.eye(DIMENSION).double()[:3]
    basis = block_krylov(DenseOperator(square + square.T), first, depth, size)
    assert len(basis) == rows
    assert torch.equal(basis[:3], first)


def test_zero_columns_in_number_give_no_direction() -> None:
    finder = LeadingDirections(2)
    finder.add(torch.zeros(7, DIMENSION))
    assert finder.basis().shape == (0, DIMENSION)
