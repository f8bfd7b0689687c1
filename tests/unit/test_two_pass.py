"""Lanczos without its vectors: the same basis, more products, a handful of vectors."""

from __future__ import annotations

import gc
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fedunlearn.errors import NonFiniteError
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.solvers.cubic import lift, solve_in_basis, solve_reduced
from fedunlearn.solvers.lanczos import StoredBasis, lanczos
from fedunlearn.solvers.linear_operator import DenseOperator, LinearOperator
from fedunlearn.solvers.solution import Status
from fedunlearn.solvers.two_pass import ReplayedBasis, two_pass_lanczos
from fedunlearn.solvers.weight import choose_weight
from fedunlearn.unlearning import subspace
from fedunlearn.unlearning.cubic_newton import CubicNewton, CubicNewtonSettings
from tests.cases import OPERATORS, CountingOperator
from tests.federations import TinyTask
from tests.removals import federation_of, trained_on

pytestmark = pytest.mark.slow

KINDS = [
    name
    for name, kind in OPERATORS.items()
    if kind.positive_semidefinite and not name.startswith("zero gradient")
]
DTYPES = [torch.float32, torch.float64]


def _problem(kind: str, dtype: torch.dtype) -> tuple[CountingOperator, Tensor]:
    case = OPERATORS[kind].build(17, 60)
    operator = DenseOperator(case.matrix.to(dtype), positive_semidefinite=True)
    return CountingOperator(operator), case.gradient.to(dtype)


def _replayed(operator: LinearOperator, gradient: Tensor, products: int) -> ReplayedBasis:
    *_, basis = two_pass_lanczos(operator, gradient, products)
    return basis


def _stored(operator: LinearOperator, gradient: Tensor, products: int) -> StoredBasis:
    *_, basis = lanczos(operator, gradient, products)
    return basis


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("products", [1, 2, 5, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_until_ritz_values_converge_it_is_the_stored_basis(
    kind: str, products: int, dtype: torch.dtype
) -> None:
    operator, gradient = _problem(kind, dtype)
    basis = _replayed(operator, gradient, products)
    stored = _stored(operator, gradient, products)
    spread = float(stored.projection.abs().max())
    rounding = 100 * torch.finfo(dtype).eps
    assert basis.size == stored.size == products
    assert basis.exhausted == stored.exhausted is False
    torch.testing.assert_close(
        basis.projection, stored.projection, rtol=0.0, atol=rounding * spread
    )
    torch.testing.assert_close(basis.gradient, stored.gradient)
    assert basis.coupling == pytest.approx(stored.coupling, rel=0.0, abs=rounding * spread)

    generator = torch.Generator().manual_seed(2)
    coordinates = torch.randn(products, 3, generator=generator, dtype=torch.float64)
    lifted = basis.lift(coordinates)
    assert lifted.shape == (60, 3) and lifted.dtype == dtype
    torch.testing.assert_close(lifted, stored.lift(coordinates), rtol=0.0, atol=100 * rounding)
    torch.testing.assert_close(basis.lift(coordinates[:, 1]), lifted[:, 1], rtol=0.0, atol=0.0)

    steps = [solve_in_basis(chosen, 0.5) for chosen in (basis, stored)]
    difference = float((steps[0].step - steps[1].step).norm())
    assert difference <= rounding * float(steps[1].step.norm())
    assert steps[0].status is steps[1].status


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("products", [5, 12, 20])
@pytest.mark.parametrize("kind", KINDS)
def test_where_they_have_converged_copies_of_them_do_no_harm(
    kind: str, products: int, dtype: torch.dtype
) -> None:
    """Then orthogonality is lost, as the source says: products are wasted, no step is wrong."""
    operator, gradient = _problem(kind, dtype)
    matrix, slope = operator.inner.matmat(torch.eye(60, dtype=dtype)).double(), gradient.double()
    bases = _replayed(operator, gradient, products), _stored(operator, gradient, products)
    for weight in (1e-3, 0.5, 50.0):
        values = []
        for basis in bases:
            found = solve_in_basis(basis, weight)
            step = found.step.double()
            cubed = weight / 6.0 * float(step.norm()) ** 3
            values.append(float(slope @ step + 0.5 * step @ matrix @ step) + cubed)
            assert found.predicted == pytest.approx(values[-1], rel=1e4 * torch.finfo(dtype).eps)
        # On a condition number of 1e6 the copies take the place of what 20 products would find.
        share = 0.2 if kind == "wildly scaled" else 1e-6
        assert values[0] <= (1.0 - share) * values[1] < 0.0


def test_every_product_of_both_passes_is_counted() -> None:
    operator, gradient = _problem("easy", torch.float64)
    sizes = []
    for basis in two_pass_lanczos(operator, gradient, 7):
        sizes.append(basis.size)
        assert operator.calls == operator.vectors == basis.products == basis.size
    assert sizes == [1, 2, 3, 4, 5, 6, 7]
    reduced = [solve_reduced(basis, weight) for weight in (0.1, 1.0, 10.0)]
    assert operator.calls == 7
    rows = lift(basis, reduced)
    assert rows.shape == (3, 60)
    assert operator.calls == basis.products == 7 + 6
    found = solve_in_basis(basis, 1.0)
    assert operator.calls == found.products == 7 + 6 + 6
    torch.testing.assert_close(found.step, rows[1], rtol=0.0, atol=0.0)
    assert reduced[1].products == 7


def test_a_single_product_is_lifted_for_nothing() -> None:
    operator, gradient = _problem("easy", torch.float64)
    found = solve_in_basis(_replayed(operator, gradient, 1), 1.0)
    assert operator.calls == found.products == 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("semidefinite", [True, False])
def test_a_breakdown_ends_it(semidefinite: bool, dtype: torch.dtype) -> None:
    eigenvalues = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], dtype=dtype)
    gradient = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0], dtype=dtype)
    operator = CountingOperator(
        DenseOperator(torch.diag(eigenvalues), positive_semidefinite=semidefinite)
    )
    basis = _replayed(operator, gradient, 6)
    assert operator.calls == basis.size == 3
    assert basis.coupling == 0.0
    assert basis.exhausted is semidefinite  # elsewhere negative curvature may be hidden
    found = solve_in_basis(basis, 0.0, rtol=1e-5)
    expected = torch.tensor([-1.0, -1.0 / 2.0, -1.0 / 3.0, 0.0, 0.0, 0.0], dtype=dtype)
    torch.testing.assert_close(found.step, expected, rtol=0.0, atol=50 * torch.finfo(dtype).eps)
    assert found.status is Status.CONVERGED


def test_a_zero_gradient_spends_nothing() -> None:
    operator, gradient = _problem("easy", torch.float64)
    assert list(two_pass_lanczos(operator, 0.0 * gradient, 5)) == []
    assert operator.calls == 0


@pytest.mark.parametrize("budget", [8, 9, 1000])
def test_at_most_d_products_make_the_basis(budget: int) -> None:
    case = OPERATORS["easy"].build(3, 8)
    operator = CountingOperator(DenseOperator(case.matrix))
    basis = _replayed(operator, case.gradient, budget)
    assert operator.calls == basis.size == 8
    assert basis.exhausted
    newton = torch.linalg.solve(case.matrix, -case.gradient)
    torch.testing.assert_close(solve_in_basis(basis, 0.0).step, newton, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    case = OPERATORS["easy"].build(3, 8)
    gradient, matrix = case.gradient.clone(), case.matrix.clone()
    gradient[2], matrix[3, 3] = bad, bad
    for operator, start in ((matrix, case.gradient), (case.matrix, gradient)):
        with pytest.raises(NonFiniteError, match="not finite"):
            _replayed(DenseOperator(operator), start, 4)


def _live(at_least: int) -> int:
    """Count the pieces of memory of so many numbers or more that tensors hold."""
    tensors = [thing for thing in gc.get_objects() if type(thing) is Tensor]
    storages = {tensor.untyped_storage().data_ptr(): tensor for tensor in tensors}
    return sum(
        tensor.untyped_storage().nbytes() // (tensor.element_size() * at_least)
        for tensor in storages.values()
    )


class _Watching(LinearOperator):
    """A diagonal operator that counts, at every third product, how many vectors are alive."""

    dtype = torch.float32
    positive_semidefinite = True

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.eigenvalues = torch.linspace(0.1, 1.0, dimension)
        self.before = self.most = self.calls = 0

    def matmat(self, vectors: Tensor) -> Tensor:
        image = self.eigenvalues[:, None] * vectors
        self.calls += 1
        if self.calls % 3 == 0:
            self.most = max(self.most, _live(self.dimension) - self.before)
        return image


@pytest.mark.parametrize("products", [6, 15])
def test_only_a_handful_of_vectors_is_held_whatever_the_products(products: int) -> None:
    operator = _Watching(50_021)
    gradient = torch.randn(operator.dimension, generator=torch.Generator().manual_seed(1))
    gc.collect()
    operator.before = _live(operator.dimension)
    basis = _replayed(operator, gradient, products)
    assert 2 <= operator.most <= 4  # this vector, the one before, the product, a remainder
    operator.most = 0
    steps = lift(basis, [solve_reduced(basis, weight) for weight in (0.1, 1.0)])
    assert 4 <= operator.most <= 2 + 4  # and the steps themselves
    assert steps.shape == (2, operator.dimension)
    del steps, basis
    operator.most = 0
    stored = _stored(operator, gradient, products)
    assert operator.most > products - 3  # what the count would show if vectors were kept
    del stored


@pytest.mark.parametrize("at_once", [1, 3, 7])
def test_choosing_a_weight_costs_a_pass_for_each_round(at_once: int) -> None:
    case = OPERATORS["easy"].build(3, 40)
    operator = CountingOperator(DenseOperator(case.matrix, positive_semidefinite=True))

    def evaluate(steps: Tensor) -> Tensor:
        return steps @ case.gradient + 0.5 * ((steps @ case.matrix) * steps).sum(1)

    basis = _replayed(operator, case.gradient, 8)
    choice = choose_weight(basis, evaluate, at_once=at_once)
    assert operator.calls == basis.products == 8 + 7 * choice.rounds
    stored = choose_weight(_stored(DenseOperator(case.matrix), case.gradient, 8), evaluate)
    assert choice.chosen.step.weight == pytest.approx(stored.chosen.step.weight, rel=1e-8)
    np.testing.assert_allclose(
        choice.chosen.step.coordinates, stored.chosen.step.coordinates, rtol=1e-8, atol=1e-12
    )


@pytest.mark.parametrize("few", [False, True], ids=["all at once", "one at a time"])
@pytest.mark.parametrize("weight", ["auto", 0.05])
def test_cubic_newton_gives_the_same_weights(
    weight: str | float, few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if few:
        monkeypatch.setattr(subspace, "STEPS_BYTES", 1)
    model = trained_on(TinyTask(), range(4), stationary=False)
    found = {}
    for kind in ("stored", "two-pass"):
        federation, listening = federation_of(TinyTask(), range(4))
        settings = CubicNewtonSettings.model_validate(
            {"basis": kind, "weight": weight, "products": 8}
        )
        found[kind] = CubicNewton(settings).unlearn(model, federation, ForgetSet.of_class(1))
        assert found[kind].details["rounds"] == len(listening.heard)
        asked = [type(question.ask).__name__ for question, _ in listening.heard]
        assert found[kind].details["products"] == asked.count("Products")
        assert asked.count("Losses") == 0 if weight != "auto" else asked.count("Losses") >= 1
        if kind == "two-pass":
            assert asked.count("Products") == 8 + 7 * (asked.count("Losses") + 1)
    one, other = found["two-pass"].weights, found["stored"].weights
    assert float((other - model.weights).norm()) > 0.1
    assert float((one - other).norm()) <= 1e-9 * float(other.norm())
    assert found["two-pass"].status == found["stored"].status
