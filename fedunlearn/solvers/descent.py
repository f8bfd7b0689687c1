"""Descent on the cubic model: one product a step, and a handful of vectors whatever the budget.

Source: the inner solver of the stochastic form, Tripuraneni, Stern, Jin, Regier, Jordan 2018,
algorithms 2 and 3, as CuReNUS uses it (Bui et al., arXiv 2406.14507); that it reaches the global
minimiser: Carmon, Duchi 2019. Three departures from the source:

- *No step size.* Theirs, 1/(20 L), needs the norm of H. Here every step is the exact global
  minimiser of the cubic model along its line: Hs is kept by linearity, so one product Hd gives
  the whole line. No L is needed and no step increases m.
- *Perturbation where it is needed.* Theirs adds a random vector to g from the start, to leave the
  hard case. Here the random vector starts a search for a direction z with z'(H + sigma I)z < 0
  once the slope of m has vanished; for operators that are semidefinite by promise there is none.
  Reflecting s at the plane orthogonal to z changes m by 2 (s'z)^2 z'(H + sigma I)z (Conn, Gould,
  Toint, *Trust-Region Methods*, 7.2), so the line along z leads out of saddles and out of minima
  that are not global alike. The model stays the one that was asked for.
- *Conjugate directions* (Polak, Ribiere 1969, never negative) instead of the gradient, unless
  plain gradients are asked for: the same one product a step, and far fewer steps where H is
  ill-conditioned.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor
from typing_extensions import override

from fedunlearn.solvers.cubic import CubicSolver, CubicStep, CubicSubproblem
from fedunlearn.solvers.lanczos import finite_norm
from fedunlearn.solvers.linear_operator import LinearOperator
from fedunlearn.solvers.solution import Status
from fedunlearn.vectors import dot

# Share of its first slope at which a search for negative curvature ends: rtol, but at most this,
# for a saddle is easily overlooked, and at least the root of rounding.
SEARCHED = 1e-3
NUDGE = 1e-8  # where that search starts: so near 0 that curvature 0 counts as an end, not as slow
SHRUNK = 8.0  # how many times shorter a step may get while its image stays as exact as a product
ITERATIONS = 200  # of Newton's method on a line; some ten are needed


def minimise_on_line(
    slope: float, curvature: float, along: float, across: float, weight: float
) -> float | None:
    """Minimise m(s + alpha d) over all alpha, where ||d|| = 1.

    In u = alpha + s'd, the distance from the foot of the perpendicular, and up to a constant, this
    is P u + 1/2 q u^2 + (M/6)(e^2 + u^2)^(3/2). Its global minimiser has the sign of -P, since all
    other terms are even. With |u| as the unknown, q u + (M/2) u sqrt(e^2 + u^2) = |P| is convex,
    and the minimiser is its largest root: Newton's method falls to it monotonically from an upper
    bound, so no bracket is needed.

    Args:
        slope: (g + Hs)'d, of the quadratic part at s.
        curvature: q = d'Hd.
        along: s'd.
        across: e >= 0, distance of the line from the origin.
        weight: M >= 0.

    Returns:
        alpha; None where the model is unbounded along d, or bounded only beyond the largest float.
    """
    foot = slope - curvature * along
    push = abs(foot)
    if weight == 0.0 and curvature <= 0.0:
        return None
    root = math.hypot(curvature, math.sqrt(2.0 * weight) * math.sqrt(push))
    if curvature > 0.0:
        u = 2.0 * push / (curvature + root)
    else:
        u = (root - curvature) / weight
    if not math.isfinite(u):
        return None
    for _ in range(ITERATIONS):
        radius = math.hypot(across, u)
        if radius == 0.0:
            break
        excess = curvature * u + 0.5 * weight * u * radius - push
        rate = curvature + 0.5 * weight * (radius + u * (u / radius))
        if excess <= 0.0 or rate <= 0.0 or not u - excess / rate < u:
            break
        u -= excess / rate
    return math.copysign(u, -foot) - along


class _BudgetSpent(Exception):
    """No product is left."""


class _Products:
    """An operator with a budget."""

    def __init__(self, operator: LinearOperator, limit: int) -> None:
        self.operator = operator
        self.left = limit
        self.spent = 0
        self.largest = 0.0  # of ||Hv|| for ||v|| = 1
        self.eps = float(torch.finfo(operator.dtype).eps)

    def multiply(self, unit: Tensor) -> Tensor:
        """Multiply a unit vector (d,)."""
        if self.left == 0:
            raise _BudgetSpent
        image = self.operator.matmat(unit[:, None])[:, 0]
        self.spent += 1
        self.left -= 1
        self.largest = max(self.largest, finite_norm(image, f"product {self.spent}"))
        return image

    @property
    def flat(self) -> float:
        """Curvature that is but rounding, where the image is that of a product."""
        return 8.0 * self.eps * math.sqrt(self.operator.dimension) * self.largest


class _Model:
    """m(s) = g's + 1/2 s'(H + shift I)s + (M/6)||s||^3 at a point that moves.

    It holds s, (H + shift I)s, g and the slope of m at s, each of shape (d,); none is changed in
    place.
    """

    def __init__(
        self, products: _Products, linear: Tensor, weight: float, shift: float = 0.0
    ) -> None:
        self.products = products
        self.linear = linear
        self.weight = weight
        self.shift = shift
        self.norm = finite_norm(linear, "the gradient")
        self.step = torch.zeros_like(linear)
        self.image = torch.zeros_like(linear)
        self.reach = 0.0  # the largest length that s has had
        self.slope = linear
        self.slope_norm = self.norm

    def multiply(self, unit: Tensor) -> Tensor:
        """Spend a product on a unit vector (d,)."""
        return self.products.multiply(unit) + self.shift * unit

    def best_on_line(self, unit: Tensor, image: Tensor) -> float | None:
        """Return the distance to the lowest point along a unit vector; None where unbounded."""
        curvature = dot(unit, image)
        if self.weight == 0.0 and curvature <= self.products.flat:
            return None
        along = dot(self.step, unit)
        across = math.sqrt(max(0.0, dot(self.step, self.step) - along**2))
        slope = dot(self.linear, unit) + dot(self.image, unit)
        return minimise_on_line(slope, curvature, along, across, self.weight)

    def move(self, unit: Tensor, image: Tensor, distance: float) -> None:
        """Go along a unit vector (d,) whose image is known."""
        self.step = self.step + distance * unit
        self.image = self.image + distance * image
        self.reach = max(self.reach, self.length)
        self.slope = self.linear + self.image + self.damping * self.step
        self.slope_norm = finite_norm(self.slope, "the slope of the cubic model")

    @property
    def length(self) -> float:
        """||s||."""
        return math.sqrt(dot(self.step, self.step))

    @property
    def damping(self) -> float:
        """(M/2)||s||."""
        return 0.5 * self.weight * self.length

    @property
    def quadratic(self) -> float:
        """m(s) without the cubic term."""
        return dot(self.linear, self.step) + 0.5 * dot(self.image, self.step)

    @property
    def value(self) -> float:
        """m(s)."""
        return self.quadratic + self.damping * self.length**2 / 3.0

    @property
    def noise(self) -> float:
        """Length of the slope that is but rounding.

        The image is a sum, so its rounding is that of the longest step it was the image of.
        """
        curvature = self.products.largest + self.shift + self.damping
        return self.products.eps * (self.norm + curvature * self.reach)


class DescentCubicSolver(CubicSolver):
    """Conjugate or plain gradient descent on the cubic model with exact line searches.

    It holds seven vectors of length d (s, Hs, g, the slope of m and the previous one, the
    direction and its image), and eleven while it searches negative curvature, whatever the
    budget; a Krylov basis holds one for each product. Vectors have the operator's dtype, scalars
    are float64. Only symmetry of the operator is assumed.

    CONVERGED is a statement about the residual; that H + sigma I is positive semidefinite is
    known only as well as a search of some ten products from a random vector finds it.
    """

    def __init__(self, *, conjugate: bool = True, seed: int = 0) -> None:
        """Set it up.

        Args:
            conjugate: Use conjugate directions; otherwise the source's plain gradients.
            seed: Seed of the random vector from which negative curvature is searched.
        """
        self.conjugate = conjugate
        self.seed = seed

    @override
    def solve(self, problem: CubicSubproblem, /, *, rtol: float, max_products: int) -> CubicStep:
        """Descend from the Cauchy point.

        Args:
            problem: Operator, gradient and weight.
            rtol: Length of the slope of m at which to stop, relative to ||g||, or to ||Hs|| where
                g is zero. Also the share of m below which a way on is not taken.
            max_products: Budget, for steps and for the search of negative curvature.

        Returns:
            The lowest point reached, with ``ritz_values`` empty. HARD_CASE means that a saddle
            was left, on a side that is arbitrary to the tolerance; UNBOUNDED that a direction of
            curvature that is not positive was met at weight 0.

        Raises:
            ValueError: The weight is negative or the budget below 1.
            NonFiniteError: The gradient, a product or the model's slope holds NaN or infinity.
        """
        if max_products < 1:
            raise ValueError(f"max_products must be at least 1, got {max_products}")
        if problem.weight < 0.0:
            raise ValueError(f"the cubic weight must not be negative, got {problem.weight}")
        products = _Products(problem.operator, max_products)
        model = _Model(products, problem.gradient.to(problem.operator.dtype), problem.weight)
        generator = torch.Generator().manual_seed(self.seed)
        try:
            return _result(model, self._minimise(model, generator, rtol))
        except _BudgetSpent:
            return _result(model, Status.BUDGET_SPENT)

    def _minimise(self, model: _Model, generator: torch.Generator, rtol: float) -> Status:
        status = Status.CONVERGED if model.norm > 0.0 else Status.STATIONARY
        while self._descend(model, rtol, model.norm):
            if model.products.operator.positive_semidefinite:
                return status
            unit, image = self._leftmost(model, generator, rtol)
            if dot(unit, image) + model.damping >= -model.products.flat:
                return status
            distance = model.best_on_line(unit, image)
            if distance is None:
                break
            before = copy.copy(model)
            model.move(unit, image, distance)
            if before.value - model.value <= max(rtol, model.products.eps) * abs(model.value):
                model.__dict__.update(before.__dict__)
                return status
            if abs(dot(before.step, unit)) < 0.1 * abs(distance):
                status = Status.HARD_CASE
        return Status.UNBOUNDED

    def _descend(self, model: _Model, rtol: float, start: float) -> bool:
        """Descend until the slope vanishes; return False where the model is unbounded."""
        previous, previous_norm = model.slope, 0.0  # that is: start along the gradient
        direction, size = torch.zeros_like(model.step), 0.0
        while True:
            reference = model.norm or max(start, finite_norm(model.image, "the image"))
            if model.slope_norm <= max(rtol * reference, model.noise):
                return True
            share = 0.0
            if self.conjugate and previous_norm > 0.0:
                change = dot(model.slope, model.slope - previous) / previous_norm
                share = max(0.0, change / previous_norm)
            direction = share * size * direction - model.slope
            if not dot(direction, model.slope) < 0.0:
                direction = -model.slope
            size = finite_norm(direction, "the direction")
            direction = direction / size
            image = model.multiply(direction)
            distance = model.best_on_line(direction, image)
            if distance is None:
                return False
            previous, previous_norm = model.slope, model.slope_norm
            model.move(direction, image, distance)
            # A positive definite model of condition c lets no slope grow beyond sqrt(c) ||g||.
            if model.weight == 0.0 and model.slope_norm * math.sqrt(model.products.eps) > start:
                return False

    def _leftmost(
        self, model: _Model, generator: torch.Generator, rtol: float
    ) -> tuple[Tensor, Tensor]:
        """Look for negative curvature of H + sigma I: minimise its cubic model without a gradient.

        Returns:
            A unit vector and its image under H, as exact as that of a product.
        """
        products, shift = model.products, model.damping
        drawn = torch.randn(model.step.numel(), generator=generator, dtype=torch.float64)
        unit = (drawn / drawn.norm()).to(model.step.dtype)
        image = products.multiply(unit)
        # So that the minimum's length is about 1. It is a curvature, hence known after a product.
        weight = products.largest + shift or 1.0
        search = _Model(products, torch.zeros_like(model.step), weight, shift)
        search.move(unit, image + shift * unit, NUDGE)
        self._descend(search, max(min(rtol, SEARCHED), math.sqrt(products.eps)), search.slope_norm)
        if search.length == 0.0:
            return unit, image
        found = search.step / search.length
        if search.reach <= SHRUNK * search.length:
            return found, (search.image - shift * search.step) / search.length
        # The search came back: what is left of the image may be rounding of what it was.
        return found, products.multiply(found)


def _result(model: _Model, status: Status) -> CubicStep:
    value = model.value
    nowhere = status in (Status.UNBOUNDED, Status.STATIONARY) or not value < 0.0
    if nowhere:
        value = -math.inf if status is Status.UNBOUNDED else 0.0
    residual = 1.0 if nowhere else model.slope_norm / (model.norm or 1.0)
    return CubicStep(
        step=torch.zeros_like(model.step) if nowhere else model.step,
        weight=model.weight,
        damping=0.0 if nowhere else model.damping,
        predicted=value,
        quadratic=value if nowhere else model.quadratic,
        residual=residual if model.norm > 0.0 else 0.0,
        ritz_values=(),
        products=model.products.spent,
        status=status,
    )
