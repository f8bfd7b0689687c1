"""Curvature-vector products of a sum of losses over one chunk of examples.

The Hessian product (Pearlmutter 1994) differentiates the gradient once more:
    H v = d<grad L(w), v>/dw.
The Gauss-Newton product (Schraudolph 2002) drops the network's own curvature:
    G v = J' (d2 loss / d outputs2) J v,
positive semidefinite wherever the loss is convex in the outputs.

Both keep the graph of a first differentiation and only walk it for each product. J v comes from
the graph of J'u, which is linear in u: J v = d<J'u, v>/du.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedunlearn.risk.memory import UNKNOWN, counting_saved, refuses_hooks

Function = Callable[[Tensor], Tensor]


class Curvature(enum.StrEnum):
    """Which curvature a product multiplies by."""

    GGN = "ggn"
    HESSIAN = "hessian"


@dataclass(frozen=True)
class KeptProduct:
    """The curvature of one chunk at fixed weights, ready to be multiplied.

    Attributes:
        apply: Maps rows (k, d) to rows (k, d).
        nbytes: Memory that its graph holds, beyond the weights.
    """

    apply: Function
    nbytes: int


def keep_product(
    curvature: Curvature, network: Function, loss: Function, weights: Tensor
) -> KeptProduct:
    """Differentiate once and keep the graph.

    Costs about one gradient; each product from it then costs about another (``make bench``).

    Args:
        curvature: Hessian or GGN.
        network: Weights (d,) to the chunk's outputs.
        loss: Outputs to the sum of the chunk's losses, a scalar.
        weights: Where the curvature is taken, shape (d,).

    Returns:
        The product of the chunk.

    Raises:
        RuntimeError: The network or the loss raised it.
    """
    point = weights.detach().requires_grad_()
    ggn = curvature is Curvature.GGN
    # GGN's graph is that of J'u at u = 0: all that depends on u is zero and need not be kept.
    differentiate = _ggn if ggn else _hessian
    try:
        with torch.enable_grad(), counting_saved(point, drop_zeros=ggn) as nbytes:
            apply = differentiate(network, loss, point)
    except RuntimeError as error:
        if not refuses_hooks(error):
            raise
        with torch.enable_grad():
            return KeptProduct(differentiate(network, loss, point), UNKNOWN)
    # What a product starts from, grad L(w) or J'u, stays as well.
    return KeptProduct(apply, nbytes() + point.nbytes)


def _hessian(network: Function, loss: Function, point: Tensor) -> Function:
    return _derivative_of_gradient(lambda w: loss(network(w)), point)


def _ggn(network: Function, loss: Function, point: Tensor) -> Function:
    outputs = network(point)
    if not outputs.requires_grad:
        return torch.zeros_like
    direction = torch.zeros_like(outputs, requires_grad=True)
    (transposed,) = torch.autograd.grad(outputs, point, direction, create_graph=True)
    loss_curvature = _derivative_of_gradient(loss, outputs.detach().requires_grad_())

    def apply(vectors: Tensor) -> Tensor:
        changes = _walk(transposed, direction, vectors)
        return _walk(outputs, point, loss_curvature(changes))

    return apply


def _derivative_of_gradient(function: Function, point: Tensor) -> Function:
    (gradient,) = torch.autograd.grad(function(point), point, create_graph=True)
    if not gradient.requires_grad:  # the function is linear
        return torch.zeros_like
    return lambda vectors: _walk(gradient, point, vectors)


def _walk(of: Tensor, to: Tensor, rows: Tensor) -> Tensor:
    """Multiply each row (k, ...) with the transposed Jacobian of a graph that is kept."""
    # Not with is_grads_batched: that takes k times the memory, is slower for convolutions
    # (measured: 1.5 times for ten rows), and fails at GroupNorm.
    results = [torch.autograd.grad(of, to, row, retain_graph=True)[0] for row in rows]
    return results[0][None] if len(results) == 1 else torch.stack(results)
