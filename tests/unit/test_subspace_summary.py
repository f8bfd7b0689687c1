"""What a subspace sees adds up and narrows down; and the basis that it belongs to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedunlearn.questions.subspace_summary import FloatArray, Summary, pack, packed_size, unpack
from fedunlearn.recording import basis as basis_module
from fedunlearn.recording.basis import MemoryBasis
from tests.laws import laws

LAW = laws(60)
DIMENSION = 40
sizes = st.integers(1, 12)
seeds = st.integers(0, 2**32)


def rotation(size: int, kept: int, seed: int) -> FloatArray:
    """Return orthonormal columns (size, kept)."""
    drawn = np.random.default_rng(seed).standard_normal((size, kept))
    return np.ascontiguousarray(np.linalg.qr(drawn)[0])


def group(size: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return a packed summary of one group in a subspace of so many dimensions, and its g (d,)."""
    generator = np.random.default_rng([seed, 1])
    gradient = torch.from_numpy(generator.standard_normal(DIMENSION)).to(dtype)
    basis = torch.from_numpy(rotation(DIMENSION, size, 7).T).to(dtype)
    root = torch.from_numpy(generator.standard_normal((size, size)))
    curvature = (root @ root.T).to(dtype)
    examples = int(generator.integers(1, 2**20))
    return pack(examples, 3 * examples, gradient, basis @ gradient, curvature), gradient


def summary_of(size: int, seed: int) -> Summary:
    return unpack(group(size, seed)[0], size)


def same(one: Summary, other: Summary) -> None:
    assert one.examples == other.examples
    assert one.mass == pytest.approx(other.mass, abs=1e-9)
    assert one.square == pytest.approx(other.square, rel=1e-12, abs=1e-11)
    assert one.outside == pytest.approx(other.outside, rel=1e-12, abs=1e-11)
    np.testing.assert_allclose(one.gradient, other.gradient, rtol=1e-12, atol=1e-11)
    np.testing.assert_allclose(one.curvature, other.curvature, rtol=1e-12, atol=1e-11)


@LAW
@given(st.integers(0, 12), seeds)
def test_what_is_packed_is_unpacked(size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.randn(DIMENSION, generator=generator).double()
    along = 0.1 * torch.randn(size, generator=generator).double()
    root = torch.randn(size, size, generator=generator).double()
    curvature = root + root.T
    row = pack(17, 34, gradient, along, curvature)
    assert row.shape == (packed_size(size),) == (size * (size + 3) // 2 + 3,)
    found = unpack(row, size)
    assert (found.examples, found.mass) == (17, 34.0)
    assert found.square == float(gradient.square().sum())
    assert found.outside == pytest.approx(max(0.0, found.square - float(along @ along)))
    assert np.array_equal(found.gradient, along.numpy())
    assert np.array_equal(found.curvature, curvature.numpy())


@LAW
@given(sizes, seeds, st.sampled_from([torch.float32, torch.float64]))
def test_curvature_is_symmetric_to_the_last_bit(size: int, seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.randn(DIMENSION, generator=generator).to(dtype)
    rounded = torch.randn(size, size, generator=generator).to(dtype)
    row = pack(3, 3, gradient, gradient[:size], rounded)
    assert row.dtype == dtype
    found = unpack(row, size)
    assert found.gradient.dtype == found.curvature.dtype == np.float64
    assert np.array_equal(found.curvature, found.curvature.T)
    np.testing.assert_allclose(found.curvature, (rounded + rounded.T) / 2, rtol=1e-6)
    smaller = found.within(rotation(size, (size + 1) // 2, seed))
    assert np.array_equal(smaller.curvature, smaller.curvature.T)


def test_a_row_in_single_precision_counts_ten_million_examples() -> None:
    row = pack(10_000_001, 10_000_001, torch.ones(4), torch.zeros(1), torch.zeros(1, 1))
    assert unpack(row, 1).examples == 10_000_001


def test_rounding_leaves_nothing_negative_outside() -> None:
    """A gradient inside of the subspace, of which the last bits say that it is longer there."""
    gradient = torch.tensor([1.0, 0.0])
    assert (
        unpack(pack(1, 1, gradient, torch.tensor([1.0 + 1e-6]), torch.zeros(1, 1)), 1).outside == 0
    )


def test_what_is_unpacked_is_its_own() -> None:
    row, _ = group(3, 1)
    found = unpack(row, 3)
    before = found.gradient.copy()
    row.zero_()
    assert np.array_equal(found.gradient, before)


@LAW
@given(sizes, seeds, seeds, seeds)
def test_summaries_add_up(size: int, first: int, second: int, third: int) -> None:
    one, two, three = (summary_of(size, seed) for seed in (first, second, third))
    nothing = Summary.nothing(size)
    same(one + two, two + one)
    same((one + two) + three, one + (two + three))
    same((one + two) - two, one)
    same(one - one, nothing)
    same(one + nothing, one)
    same(one - nothing, one)
    assert (one + two).examples == one.examples + two.examples
    np.testing.assert_array_equal((one + two).curvature, one.curvature + two.curvature)


@LAW
@given(sizes, st.integers(1, 12), seeds, seeds)
def test_what_a_smaller_subspace_sees_of_a_sum_is_the_sum_of_what_it_sees(
    size: int, kept: int, first: int, second: int
) -> None:
    one, two = summary_of(size, first), summary_of(size, second)
    smaller = rotation(size, min(size, kept), first)
    for whole, parts in (
        ((one + two).within(smaller), one.within(smaller) + two.within(smaller)),
        ((one - two).within(smaller), one.within(smaller) - two.within(smaller)),
    ):
        assert whole.examples == parts.examples
        assert whole.square == parts.square
        np.testing.assert_allclose(whole.gradient, parts.gradient, rtol=1e-10, atol=1e-9)
        np.testing.assert_allclose(whole.curvature, parts.curvature, rtol=1e-10, atol=1e-9)


@LAW
@given(sizes, st.integers(1, 12), seeds)
def test_what_lies_outside_of_one_group_is_exact(size: int, kept: int, seed: int) -> None:
    row, gradient = group(size, seed)
    smaller = rotation(size, min(size, kept), seed)
    seen = torch.from_numpy(rotation(DIMENSION, size, 7) @ smaller).T @ gradient
    found = unpack(row, size).within(smaller)
    np.testing.assert_allclose(found.gradient, seen.numpy(), rtol=1e-10, atol=1e-10)
    assert found.outside == pytest.approx(
        float(gradient @ gradient) - float(seen @ seen), rel=1e-10, abs=1e-10
    )


@LAW
@given(sizes, seeds)
def test_narrowing_twice_is_narrowing_once(size: int, seed: int) -> None:
    one = summary_of(size, seed)
    first = rotation(size, max(1, size - 1), seed)
    second = rotation(max(1, size - 1), max(1, size // 2), seed + 1)
    same(one.within(first).within(second), one.within(first @ second))
    same(one.within(np.eye(size)), one)


PRECISIONS = [torch.float32, torch.float64, torch.bfloat16]


def basis_of(precision: torch.dtype, size: int = 5, dimension: int = 200) -> MemoryBasis:
    return MemoryBasis(torch.from_numpy(rotation(dimension, size, 3).T.copy()).to(precision))


@pytest.mark.parametrize("at_once", [1, 2000, 3000, 2**30])
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_pieces_are_the_rows_however_many_fit_at_once(
    precision: torch.dtype, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(basis_module, "AT_ONCE_BYTES", at_once)
    basis = basis_of(precision)
    pieces = list(basis.pieces())
    assert [row for which, _ in pieces for row in range(which.start, which.stop)] == list(range(5))
    widened = torch.float64 if precision is torch.float64 else torch.float32
    bytes_of_a_row = 200 * (precision.itemsize + widened.itemsize)
    for which, rows in pieces:
        assert rows.dtype == widened
        assert torch.equal(rows, basis.rows(which.start, which.stop).to(widened))
        assert len(rows) == 1 or len(rows) * bytes_of_a_row <= at_once
    assert (len(pieces) == 5) is (at_once == 1 or 2 * bytes_of_a_row > at_once)
    assert torch.equal(basis.whole(), basis.rows(0, 5).to(widened))


@pytest.mark.parametrize("at_once", [1, 2000, 2**30])
@pytest.mark.parametrize("weights", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_moved_is_the_sum_however_many_rows_fit_at_once(
    precision: torch.dtype,
    weights: torch.dtype,
    at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(basis_module, "AT_ONCE_BYTES", at_once)
    monkeypatch.setattr(basis_module, "WIDENED", 64)  # 200 columns: three pieces and a rest
    basis = basis_of(precision)
    start = torch.randn(200, generator=torch.Generator().manual_seed(0)).to(weights)
    before = start.clone()
    coordinates = np.array([1.0, -2.0, 0.0, 1e-3, 30.0])
    found = basis.moved(start, coordinates)
    assert found.dtype == weights and torch.equal(start, before)
    exact = start.double() + torch.from_numpy(coordinates) @ basis.rows(0, 5).double()
    rounding = 1e-5 if weights is torch.float32 else 1e-13
    torch.testing.assert_close(found.double(), exact, rtol=rounding, atol=rounding)
    assert torch.equal(basis.moved(start, np.zeros(5)), start)
