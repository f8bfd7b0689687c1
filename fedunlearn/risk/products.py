"""Curvature-vector products of a sum of losses over one chunk of examples.

The Hessian product is forward-over-reverse (Pearlmutter 1994):
    H v = d/dt grad L(w + t v) at t = 0.
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
    gradient = grad(lambda w: loss(network(w)))

    def product(vector: Tensor) -> Tensor:
        return jvp(gradient, (weights,), (vector,))[1]

    return product


def _ggn(network: Function, loss: Function, weights: Tensor) -> Function:
    outputs, pull_back = vjp(network, weights)
    gradient = grad(loss)

    def product(vector: Tensor) -> Tensor:
        change = jvp(network, (weights,), (vector,))[1]
        curved = jvp(gradient, (outputs,), (change,))[1]
        (result,) = pull_back(curved)
        return result

    return product


def apply_to_rows(product: Function, vectors: Tensor) -> Tensor:
    """Apply a product to each row of (k, d)."""
    if vectors.shape[0] == 1:
        return product(vectors[0])[None]
    return vmap(product, randomness="error")(vectors)
