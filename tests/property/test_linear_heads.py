"""Laws of linear heads: minimisers, bounds of their errors, sums that add up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedunlearn.questions.head_moments import unpack_moments
from fedunlearn.questions.heads import Head
from fedunlearn.questions.subspace_summary import from_upper
from fedunlearn.risk.head_sums import derivatives, derivatives_size, moments, moments_size
from fedunlearn.risk.linear_head import KINDS, HeadLoss
from fedunlearn.solvers.linear_head import (
    Derivatives,
    SingularError,
    accelerate,
    minimise,
    solve_ridge,
)

FloatArray = NDArray[np.float64]
SEEDS = st.integers(0, 2**32 - 1)


def problem(
    seed: int, count: int, inputs: int, outputs: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scale = 10.0 ** torch.randint(-2, 3, (inputs,), generator=generator)
    x = torch.randn(count, inputs, generator=generator, dtype=torch.float64) * scale
    labels = torch.randint(0, outputs, (count,), generator=generator)
    weights = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64) / scale
    return x, labels, weights


@settings(max_examples=60, deadline=None)
@given(
    seed=SEEDS,
    loss=st.sampled_from(HeadLoss),
    count=st.integers(1, 30),
    inputs=st.integers(1, 5),
    outputs=st.integers(2, 4),
)
def test_derivatives_are_those_of_autograd(
    seed: int, loss: HeadLoss, count: int, inputs: int, outputs: int
) -> None:
    x, labels, weights = problem(seed, count, inputs, outputs)
    targets = torch.nn.functional.one_hot(labels, outputs).double()
    found = derivatives(loss, 2.0, x, targets, weights)
    assert len(found) == derivatives_size(loss, inputs, outputs, curvature=True)
    short = derivatives(loss, 2.0, x, targets, weights, curvature=False)
    assert torch.equal(short, found[: derivatives_size(loss, inputs, outputs, curvature=False)])

    def total(flat: torch.Tensor) -> torch.Tensor:
        return 2.0 * count * KINDS[loss](x @ flat.reshape(outputs, inputs).T, labels)

    flat = weights.reshape(-1)
    size = len(flat)
    gradient = torch.func.grad(total)(flat)
    hessian = torch.func.hessian(total)(flat)
    assert torch.allclose(found[0], total(flat), rtol=1e-10)
    scale = float(gradient.norm()) + float(x.abs().sum())
    assert torch.allclose(found[1 : 1 + size], gradient, atol=1e-11 * scale)
    edge = inputs if loss is HeadLoss.ONE_VS_REST else size
    blocks = [
        torch.from_numpy(from_upper(one.numpy(), edge))
        for one in found[1 + size :].split(edge * (edge + 1) // 2)
    ]
    dense = torch.block_diag(*blocks)
    assert torch.allclose(dense, hessian, atol=1e-11 * float(x.square().sum()))


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, count=st.integers(2, 40), inputs=st.integers(1, 6), cuts=st.integers(1, 5))
def test_moments_add_up_within_their_bounds(seed: int, count: int, inputs: int, cuts: int) -> None:
    x, labels, _ = problem(seed, count, inputs, 3)
    targets = torch.nn.functional.one_hot(labels, 3).double()
    head = Head(HeadLoss.SQUARED, 3, bias=False)

    def of(rows: torch.Tensor) -> torch.Tensor:
        found = moments(HeadLoss.SQUARED, 1.0, x[rows], targets[rows])
        assert len(found) == moments_size(HeadLoss.SQUARED, inputs, 3)
        return found

    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    total = unpack_moments(of(order), head, inputs)
    parts = [unpack_moments(of(rows), head, inputs) for rows in order.chunk(cuts)]
    exact = x.numpy().astype(np.longdouble)
    left = total
    for part in parts[1:]:
        left = left - part
    stays = exact[order.chunk(cuts)[0].numpy()]
    assert left.examples == len(stays)
    error = float(np.linalg.norm((left.square - stays.T @ stays).astype(np.float64)))
    assert error <= left.square_error
    joined = left
    for part in parts[1:]:
        joined = joined + part
    assert joined.examples == total.examples
    error = float(np.linalg.norm((joined.square - exact.T @ exact).astype(np.float64)))
    assert error <= joined.square_error


@settings(max_examples=100, deadline=None)
@given(
    seed=SEEDS,
    count=st.integers(1, 40),
    inputs=st.integers(1, 8),
    decay=st.sampled_from([1e-8, 1e-4, 1e-2, 1.0]),
)
def test_the_bound_of_ridge_holds(seed: int, count: int, inputs: int, decay: float) -> None:
    x, labels, _ = problem(seed, count, inputs, 3)
    y = torch.nn.functional.one_hot(labels, 3).double().numpy()
    rows = x.numpy()
    square, cross = rows.T @ rows / count, rows.T @ y / count
    slack = count * inputs * np.finfo(np.float64).eps
    found = solve_ridge(
        square,
        cross,
        decay,
        square_error=slack * float(np.trace(square)),
        cross_error=slack * float(np.trace(square)) ** 0.5,
    )
    # By QR of the rows themselves: its error has the root of the condition number.
    extended = np.concatenate([rows, np.sqrt(decay * count) * np.eye(inputs)])
    padded = np.concatenate([y, np.zeros((inputs, 3))])
    wanted = np.linalg.lstsq(extended, padded, rcond=None)[0].T
    own = 1e-14 * np.linalg.cond(extended) * (1.0 + np.linalg.norm(wanted))
    assert np.linalg.norm(found.weights - wanted) <= found.error + own
    assert found.curvature >= decay


def test_a_singular_system_is_refused() -> None:
    with pytest.raises(SingularError):
        solve_ridge(np.diag([1.0, 0.0]), np.ones((2, 1)), 0.0)


@settings(max_examples=40, deadline=None)
@given(
    seed=SEEDS,
    loss=st.sampled_from([HeadLoss.CROSS_ENTROPY, HeadLoss.ONE_VS_REST]),
    decay=st.sampled_from([1e-4, 1e-2, 1.0]),
    share=st.floats(0.0, 0.5),
)
def test_newton_and_accelerated_steps_reach_the_minimiser(
    seed: int, loss: HeadLoss, decay: float, share: float
) -> None:
    count, inputs, outputs = 60, 4, 3
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, inputs, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, outputs, (count,), generator=generator)

    def at(rows: slice, flat: FloatArray) -> Derivatives:
        some, size = x[rows], outputs * inputs
        targets = torch.nn.functional.one_hot(labels[rows], outputs).double()
        weights = torch.from_numpy(flat.reshape(outputs, inputs).copy())
        values = derivatives(loss, 1.0, some, targets, weights).numpy() / len(some)
        edge = inputs if loss is HeadLoss.ONE_VS_REST else size
        return Derivatives(
            float(values[0]) + decay / 2 * float(flat @ flat),
            values[1 : 1 + size] + decay * flat,
            [
                from_upper(one, edge) + decay * np.eye(edge)
                for one in np.split(values[1 + size :], size // edge)
            ],
        )

    everything, stays = slice(0, count), slice(0, count - int(share * count))
    before = minimise(lambda w: at(everything, w), np.zeros((outputs, inputs)), decay)
    assert before.relative_error < 1e-9
    after = minimise(lambda w: at(stays, w), np.zeros((outputs, inputs)), decay)
    blocks = at(everything, before.weights.reshape(-1)).blocks
    quick = accelerate(
        lambda w: at(stays, w).gradient, before.weights, blocks, decay, tolerance=1e-9
    )
    apart = float(np.linalg.norm(quick.weights - after.weights))
    assert apart <= quick.error + after.error
    assert quick.rounds <= 40
    if share < 0.1:
        assert quick.relative_error <= 1e-9
