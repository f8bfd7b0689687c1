"""Curvature-vector products of a sum of losses over one chunk of examples.

The Hessian product (Pearlmutter 1994) is the gradient of a directional derivative:
    H v = grad_w (d/dt L(w + t v) at t = 0).
Reverse over forward costs what forward over reverse does, and works for more losses: torch has no
forward derivative of the backward passes of mse_loss and huber_loss.
The Gauss-Newton product (Schraudolph 2002) drops the network's own curvature:
    G v = J' (d2 loss / d outputs2) J v,
positive semidefinite wherever the loss is convex in the outputs.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from torch import Tensor
from torch.func import grad, jvp, vjp, vmap

Function = Callable[[Tensor], Tensor]


class Curvature(enum.StrEnum):
    """Which curvature a product multiplies by."""

    GGN = "ggn"
    HESSIAN = "hessian"


def product_function(
    curvature: Curvature, network: Function, loss: Function, weights: Tensor
) -> Function:
    """Return v -> C v for one chunk of examples.

    Args:
        curvature: C.
        network: Weights (d,) to the chunk's outputs.
        loss: Outputs to the sum of the chunk's losses, a scalar.
        weights: Where the curvature is taken, shape (d,).

    Returns:
        A function from (d,) to (d,).
    """
    if curvature is Curvature.HESSIAN:
        return _hessian(network, loss, weights)
    return _ggn(network, loss, weights)


def _hessian(network: Function, loss: Function, weights: Tensor) -> Function:
    return _hessian_product(lambda w: loss(network(w)), weights)


def _hessian_product(function: Function, point: Tensor) -> Function:
    def product(vector: Tensor) -> Tensor:
        result: Tensor = grad(lambda w: jvp(function, (w,), (vector,))[1])(point)
        return result

    return product


def _ggn(network: Function, loss: Function, weights: Tensor) -> Function:
    outputs, pull_back = vjp(network, weights)  # type: ignore[misc]  # its stub unites two forms
    loss_curvature = _hessian_product(loss, outputs)

    def product(vector: Tensor) -> Tensor:
        curved = loss_curvature(jvp(network, (weights,), (vector,))[1])
        result: Tensor = pull_back(curved)[0]
        return result

    return product


def apply_to_rows(product: Function, vectors: Tensor) -> Tensor:
    """Apply a product to each row of (k, d)."""
    if vectors.shape[0] == 1:
        return product(vectors[0])[None]
    return vmap(product, randomness="error")(vectors)
