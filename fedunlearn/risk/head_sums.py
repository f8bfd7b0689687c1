"""Sums over examples of a linear layer's inputs, and of derivatives of the loss in its weights.

With X (n, p) the layer's inputs, Y (n, k) the targets, W (k, p) its weights and O = X W' its
outputs, all in float64:

    squared        c/2 |O - Y|^2        X'X and X'Y say everything
    cross-entropy  c sum_i -log softmax(o_i)[y_i]
                   gradient c (P - Y)'X, curvature c sum_i (diag(p_i) - p_i p_i') (x) x_i x_i'
    one-vs-rest    c sum_ij log(1 + exp(-(2 y_ij - 1) o_ij))
                   gradient c (S - Y)'X, curvature of output j: c X' diag(s_j (1 - s_j)) X
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedunlearn.risk.linear_head import HeadLoss


def moments_size(loss: HeadLoss, inputs: int, outputs: int) -> int:
    """Return the length of the moments of a group of examples."""
    return 1 + triangle(inputs) + (inputs * outputs + 1 if loss is HeadLoss.SQUARED else 0)


def derivatives_size(loss: HeadLoss, inputs: int, outputs: int, *, curvature: bool) -> int:
    """Return the length of loss, gradient and, where it is asked for, curvature."""
    dimension = inputs * outputs
    if not curvature:
        return 1 + dimension
    if loss is HeadLoss.ONE_VS_REST:
        return 1 + dimension + outputs * triangle(inputs)
    return 1 + dimension + triangle(dimension)


def triangle(size: int) -> int:
    """Return the number of entries of the upper triangle of a matrix (size, size)."""
    return size * (size + 1) // 2


def moments(loss: HeadLoss, factor: float, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the second moments of some examples.

    Args:
        loss: The loss; X'Y belongs to the squared one only.
        factor: Its factor c, by which the moments of the squared loss are multiplied.
        inputs: X (n, p), float64.
        targets: Y (n, k), float64.

    Returns:
        The number of examples, the upper triangle of X'X and, with the squared loss, X'Y by rows
        and |Y|^2.
    """
    count = inputs.new_tensor([float(len(inputs))])
    square = upper(inputs.T @ inputs)
    if loss is not HeadLoss.SQUARED:
        return torch.cat([count, square])
    cross = (inputs.T @ targets).reshape(-1)
    return torch.cat([count, factor * torch.cat([square, cross, targets.square().sum()[None]])])


def derivatives(
    loss: HeadLoss,
    factor: float,
    inputs: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    curvature: bool = True,
) -> Tensor:
    """Return the sums of the loss, its gradient and its curvature at some weights.

    Args:
        loss: The loss.
        factor: Its factor c.
        inputs: X (n, p), float64.
        targets: Y (n, k), float64.
        weights: W (k, p), float64.
        curvature: Whether to compute the curvature.

    Returns:
        The value, the gradient (k p,) by rows of W, and the upper triangle by rows of the
        curvature; with one-vs-rest, of each output's curvature (p, p).
    """
    outputs = inputs @ weights.T
    if loss is HeadLoss.SQUARED:
        value = 0.5 * (outputs - targets).square().sum()
        shares = outputs
    elif loss is HeadLoss.CROSS_ENTROPY:
        value = -(targets * outputs.log_softmax(1)).sum()
        shares = outputs.softmax(1)
    else:
        value = -torch.nn.functional.logsigmoid((2.0 * targets - 1.0) * outputs).sum()
        shares = outputs.sigmoid()
    parts = [value.reshape(1), ((shares - targets).T @ inputs).reshape(-1)]
    if curvature:
        parts.append(_curvature(loss, inputs, shares))
    return factor * torch.cat(parts)


def _curvature(loss: HeadLoss, inputs: Tensor, shares: Tensor) -> Tensor:
    """Return the upper triangle of the curvature, or with one-vs-rest those of its blocks."""
    if loss is HeadLoss.SQUARED:
        return upper(torch.block_diag(*([inputs.T @ inputs] * shares.shape[1])))
    if loss is HeadLoss.CROSS_ENTROPY:
        return upper(_softmax_curvature(inputs, shares))
    columns = (shares * (1 - shares)).T
    return torch.cat([upper(inputs.T @ (column[:, None] * inputs)) for column in columns])


def upper(matrix: Tensor) -> Tensor:
    """Return the upper triangle of a symmetric matrix by rows."""
    rows, columns = torch.triu_indices(*matrix.shape)
    return matrix[rows, columns]


def _softmax_curvature(inputs: Tensor, shares: Tensor) -> Tensor:
    """Return the sum of (diag(p) - p p') (x) x x', shape (k p, k p)."""
    count, size = shares.shape[1], inputs.shape[1]
    result = inputs.new_zeros(count * size, count * size)
    for j in range(count):
        for i in range(j + 1):
            weight = -shares[:, i] * shares[:, j]
            if i == j:
                weight = weight + shares[:, i]
            block = inputs.T @ (weight[:, None] * inputs)
            result[i * size : (i + 1) * size, j * size : (j + 1) * size] = block
            result[j * size : (j + 1) * size, i * size : (i + 1) * size] = block.T
    return result
