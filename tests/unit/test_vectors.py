from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fedunlearn.vectors import PIECE, accumulate, dot, norm, not_finite

LENGTHS = [1, 7, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 3]


def _pair(length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    left, right = (torch.randn(length, generator=generator, dtype=dtype) for _ in range(2))
    left[-1] = right[-1] = 1e3  # the last entry must count, whichever piece it lies in
    return left, right


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("length", LENGTHS)
def test_sums_are_those_of_numpy_in_double_precision(length: int, dtype: torch.dtype) -> None:
    left, right = _pair(length, dtype)
    one, other = left.double().numpy(), right.double().numpy()
    reach = float(np.abs(one) @ np.abs(other))
    assert dot(left, right) == pytest.approx(float(one @ other), rel=0.0, abs=1e-13 * reach)
    assert norm(left) == pytest.approx(float(np.linalg.norm(one)), rel=1e-13)
    assert isinstance(dot(left, right), float) and isinstance(norm(left), float)


def test_nothing_adds_up_to_zero() -> None:
    empty = torch.zeros(0)
    assert dot(empty, empty) == norm(empty) == not_finite(empty) == 0


@pytest.mark.parametrize("size", [1e-44, 1e-30, 1e30, 3e38])
def test_squares_of_single_precision_neither_vanish_nor_overflow(size: float) -> None:
    vector = torch.full((16,), size, dtype=torch.float32)
    exact = float(vector[0].double())
    assert norm(vector) == pytest.approx(4.0 * exact, rel=1e-14)
    assert dot(vector, -vector) == pytest.approx(-16.0 * exact**2, rel=1e-14)


def test_small_terms_are_not_lost_beside_a_large_one() -> None:
    vector = torch.full((100_001,), 1e-4, dtype=torch.float32)
    vector[0] = 1.0
    small = float(vector[1].double())
    assert dot(vector, vector) == pytest.approx(1.0 + 100_000 * small**2, rel=1e-14)


def test_vectors_of_other_lengths_are_refused() -> None:
    for short, long in ((3, 4), (PIECE, PIECE + 1)):
        with pytest.raises((ValueError, RuntimeError)):
            dot(torch.ones(short), torch.ones(long))


@pytest.mark.parametrize("length", LENGTHS[2:])
def test_totals_and_counts_reach_every_piece(length: int) -> None:
    values, _ = _pair(length, torch.float32)
    total = torch.ones(length, dtype=torch.float64)
    accumulate(total, values)
    assert torch.equal(total, 1.0 + values.double())
    values[0], values[-1] = float("nan"), float("-inf")
    assert not_finite(values) == 2
