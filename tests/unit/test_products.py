"""Curvature products against dense derivatives, and the laws that they keep."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.func import functional_call, hessian, jacrev

from fedunlearn.parameters import ParameterLayout, flatten
from fedunlearn.risk.products import Curvature, keep_product
from tests.cases import RISKS
from tests.laws import laws

pytestmark = pytest.mark.slow

EXAMPLES = 6
SEED = 21
CURVATURES = list(Curvature)


class _Setup:
    """One model and its sum of losses, in dense reach."""

    def __init__(self, name: str) -> None:
        self.case = RISKS[name]
        model, (inputs, targets) = self.case.build(SEED, EXAMPLES)
        layout = ParameterLayout.of(model)
        self.weights = flatten(model)

        def network(weights: Tensor) -> Tensor:
            outputs: Tensor = functional_call(model, layout.unflatten(weights), (inputs,))
            return outputs

        self.network: Callable[[Tensor], Tensor] = network
        self.loss: Callable[[Tensor], Tensor] = lambda outputs: (
            self.case.loss(outputs, targets) * EXAMPLES
        )

    def dense(self, curvature: Curvature) -> Tensor:
        if curvature is Curvature.HESSIAN:
            full: Tensor = hessian(lambda w: self.loss(self.network(w)))(self.weights)
            return full
        outputs = self.network(self.weights)
        width = outputs.numel()
        jacobian = jacrev(self.network)(self.weights).reshape(width, -1)
        curved = hessian(self.loss)(outputs).reshape(width, width)
        return jacobian.T @ curved @ jacobian

    def products(self, curvature: Curvature, vectors: Tensor) -> Tensor:
        return keep_product(curvature, self.network, self.loss, self.weights).apply(vectors)


SETUPS = {name: _Setup(name) for name in RISKS}


def _rows(seed: int, count: int, dimension: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimension, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("name", RISKS)
def test_products_equal_the_dense_matrix(name: str, curvature: Curvature) -> None:
    setup = SETUPS[name]
    dense = setup.dense(curvature)
    identity = torch.eye(len(setup.weights), dtype=torch.float64)
    assert float(dense.abs().max()) > 0.1
    torch.testing.assert_close(setup.products(curvature, identity), dense, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", RISKS)
def test_gauss_newton_is_the_hessian_only_where_outputs_are_linear_in_the_weights(
    name: str,
) -> None:
    setup = SETUPS[name]
    vectors = _rows(1, 3, len(setup.weights))
    ggn = setup.products(Curvature.GGN, vectors)
    full = setup.products(Curvature.HESSIAN, vectors)
    difference = float((ggn - full).norm() / full.norm())
    if setup.case.convex:
        assert difference <= 1e-12
    else:
        assert difference > 1e-2


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("name", RISKS)
@laws(15)
@given(seed=st.integers(0, 2**20), exponent=st.integers(-6, 6))
def test_products_are_symmetric_and_linear(
    name: str, curvature: Curvature, seed: int, exponent: int
) -> None:
    setup = SETUPS[name]
    rows = _rows(seed, 2, len(setup.weights))
    factor = 10.0**exponent
    left, right = rows[0], factor * rows[1]
    images = setup.products(curvature, torch.stack([left, right, left + right]))
    size = float(left.norm() * images[1].norm() + right.norm() * images[0].norm())
    assert abs(float(left @ images[1] - right @ images[0])) <= 1e-13 * size
    error = images[2] - images[0] - images[1]
    assert float(error.norm()) <= 1e-13 * float(images[0].norm() + images[1].norm())
    if curvature is Curvature.GGN:
        assert float(left @ images[0]) >= 0.0
        assert float(right @ images[1]) >= 0.0


@pytest.mark.parametrize("name", RISKS)
def test_gauss_newton_has_no_negative_eigenvalue(name: str) -> None:
    setup = SETUPS[name]
    identity = torch.eye(len(setup.weights), dtype=torch.float64)
    eigenvalues = torch.linalg.eigvalsh(setup.products(Curvature.GGN, identity))
    assert float(eigenvalues[0]) >= -1e-12 * float(eigenvalues[-1])


def test_the_hessian_of_a_network_keeps_its_negative_curvature() -> None:
    setup = SETUPS["mlp, cross-entropy"]
    identity = torch.eye(len(setup.weights), dtype=torch.float64)
    eigenvalues = torch.linalg.eigvalsh(setup.products(Curvature.HESSIAN, identity))
    assert float(eigenvalues[0]) < -1e-2 * float(eigenvalues[-1])


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("name", RISKS)
def test_several_vectors_at_once_equal_one_at_a_time(name: str, curvature: Curvature) -> None:
    setup = SETUPS[name]
    vectors = _rows(2, 4, len(setup.weights))
    together = setup.products(curvature, vectors)
    apart = torch.cat([setup.products(curvature, vector[None]) for vector in vectors])
    torch.testing.assert_close(together, apart, rtol=1e-12, atol=1e-13)
