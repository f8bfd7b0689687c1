"""Tables of problems that several suites share; a new solver or model inherits the laws."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedunlearn.risk.task import Examples, Loss
from fedunlearn.solvers.cubic import CubicSolver, CubicSubproblem, KrylovCubicSolver
from fedunlearn.solvers.descent import DescentCubicSolver
from fedunlearn.solvers.dual import DualCubicSolver
from fedunlearn.solvers.linear_operator import DenseOperator, LinearOperator

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class CubicCase:
    """A cubic subproblem whose matrix is at hand."""

    matrix: Tensor
    gradient: Tensor
    weight: float

    def subproblem(self, *, positive_semidefinite: bool = False) -> CubicSubproblem:
        operator = DenseOperator(self.matrix, positive_semidefinite=positive_semidefinite)
        return CubicSubproblem(operator, self.gradient, self.weight)


@dataclass(frozen=True)
class CubicKind:
    """A family of subproblems: eigenvalues about 1 and the gradient in their eigenbasis.

    Attributes:
        spectrum: Maps a generator and d to eigenvalues, ascending, and gradient, both (d,).
        positive_semidefinite: Whether all eigenvalues are at least 0.
        inner_share: Where given, the gradient is rescaled until its step at the pole has this
            share of the boundary's radius 2 |leftmost| / M; below 1 it is the hard case.
    """

    spectrum: Callable[[np.random.Generator, int], tuple[FloatArray, FloatArray]]
    positive_semidefinite: bool
    inner_share: float | None = None

    def build(
        self, seed: int, dimension: int, *, weight: float = 1.0, scale: float = 1.0
    ) -> CubicCase:
        """Draw one, with eigenvalues times ``scale``, rotated at random."""
        generator = np.random.default_rng(seed)
        eigenvalues, gradient = self.spectrum(generator, dimension)
        eigenvalues = eigenvalues * scale
        if self.inner_share is not None:
            gaps = eigenvalues - eigenvalues[0]
            inner = float(np.linalg.norm(gradient[gaps > 0.0] / gaps[gaps > 0.0]))
            if inner > 0.0:
                gradient = gradient * (self.inner_share * 2.0 * -eigenvalues[0] / weight / inner)
        basis, _ = np.linalg.qr(generator.standard_normal((dimension, dimension)))
        matrix = (basis * eigenvalues) @ basis.T
        return CubicCase(
            torch.from_numpy((matrix + matrix.T) / 2.0),
            torch.from_numpy(basis @ gradient),
            weight,
        )


def _definite(generator: np.random.Generator, d: int) -> tuple[FloatArray, FloatArray]:
    return np.sort(generator.uniform(0.1, 1.0, d)), generator.standard_normal(d)


def _definite_at_rest(generator: np.random.Generator, d: int) -> tuple[FloatArray, FloatArray]:
    return _definite(generator, d)[0], np.zeros(d)


def _indefinite(generator: np.random.Generator, d: int) -> tuple[FloatArray, FloatArray]:
    eigenvalues = np.sort(generator.uniform(-0.5, 1.0, d))
    eigenvalues[0] = -1.0
    return eigenvalues, generator.standard_normal(d)


def _saddle_at_rest(generator: np.random.Generator, d: int) -> tuple[FloatArray, FloatArray]:
    return _indefinite(generator, d)[0], np.zeros(d)


def _hard(generator: np.random.Generator, d: int) -> tuple[FloatArray, FloatArray]:
    eigenvalues, gradient = _indefinite(generator, d)
    gradient[0] = 0.0
    return eigenvalues, gradient


def _nearly_hard(generator: np.random.Generator, d: int) -> tuple[FloatArray, FloatArray]:
    eigenvalues, gradient = _indefinite(generator, d)
    gradient[0] = 1e-12
    return eigenvalues, gradient


def _repeated(generator: np.random.Generator, d: int) -> tuple[FloatArray, FloatArray]:
    eigenvalues, gradient = _indefinite(generator, d)
    eigenvalues[: math.ceil(d / 3)] = -1.0
    return eigenvalues, gradient


def _hard_repeated(generator: np.random.Generator, d: int) -> tuple[FloatArray, FloatArray]:
    eigenvalues, gradient = _repeated(generator, d)
    gradient[eigenvalues == -1.0] = 0.0
    return eigenvalues, gradient


def _singular(generator: np.random.Generator, d: int) -> tuple[FloatArray, FloatArray]:
    eigenvalues, gradient = _definite(generator, d)
    eigenvalues[: math.ceil(d / 3)] = 0.0
    return eigenvalues, gradient


def _singular_in_range(generator: np.random.Generator, d: int) -> tuple[FloatArray, FloatArray]:
    eigenvalues, gradient = _definite(generator, d)
    flat = d // 3
    eigenvalues[:flat], gradient[:flat] = 0.0, 0.0
    return eigenvalues, gradient


def _singular_at_rest(generator: np.random.Generator, d: int) -> tuple[FloatArray, FloatArray]:
    return _singular(generator, d)[0], np.zeros(d)


def _wild(generator: np.random.Generator, d: int) -> tuple[FloatArray, FloatArray]:
    eigenvalues = np.sort(10.0 ** generator.uniform(-4.0, 2.0, d))
    return eigenvalues, 10.0 ** generator.uniform(-3.0, 0.0, d)


def _wild_indefinite(generator: np.random.Generator, d: int) -> tuple[FloatArray, FloatArray]:
    eigenvalues, gradient = _wild(generator, d)
    signs = np.where(generator.random(d) < 0.3, -1.0, 1.0)
    return np.sort(signs * eigenvalues), gradient


OPERATORS: Mapping[str, CubicKind] = {
    "easy": CubicKind(_definite, positive_semidefinite=True),
    "indefinite": CubicKind(_indefinite, positive_semidefinite=False),
    "singular": CubicKind(_singular, positive_semidefinite=True),
    "singular, gradient in the range": CubicKind(_singular_in_range, positive_semidefinite=True),
    "hard": CubicKind(_hard, positive_semidefinite=False, inner_share=0.6),
    "nearly hard": CubicKind(_nearly_hard, positive_semidefinite=False, inner_share=0.6),
    "zero gradient, definite": CubicKind(_definite_at_rest, positive_semidefinite=True),
    "zero gradient, singular": CubicKind(_singular_at_rest, positive_semidefinite=True),
    "zero gradient, indefinite": CubicKind(_saddle_at_rest, positive_semidefinite=False),
    "repeated leftmost": CubicKind(_repeated, positive_semidefinite=False),
    "hard, repeated leftmost": CubicKind(
        _hard_repeated, positive_semidefinite=False, inner_share=0.6
    ),
    "wildly scaled": CubicKind(_wild, positive_semidefinite=True),
    "wildly scaled, indefinite": CubicKind(_wild_indefinite, positive_semidefinite=False),
}


class CountingOperator(LinearOperator):
    """An operator that counts its calls and the vectors they brought."""

    def __init__(self, inner: LinearOperator) -> None:
        self.inner = inner
        self.dimension = inner.dimension
        self.dtype = inner.dtype
        self.positive_semidefinite = inner.positive_semidefinite
        self.calls = 0
        self.vectors = 0

    def matmat(self, vectors: Tensor) -> Tensor:
        self.calls += 1
        self.vectors += vectors.shape[1]
        return self.inner.matmat(vectors)


@dataclass(frozen=True)
class RiskCase:
    """A small differentiable model in float64 with examples and a mean loss.

    Attributes:
        model: Builds it from torch's global generator.
        loss: Mean over examples.
        inputs: Shape of one example.
        targets: Maps a generator and n to targets.
        convex: Whether the outputs are linear in the weights, so that GGN equals the Hessian.
    """

    model: Callable[[], nn.Module]
    loss: Loss
    inputs: tuple[int, ...]
    targets: Callable[[torch.Generator, int], Tensor]
    convex: bool = False

    def build(self, seed: int, count: int) -> tuple[nn.Module, Examples]:
        """Draw a model in eval mode and ``count`` examples."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = self.model().double().eval()
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(count, *self.inputs, generator=generator, dtype=torch.float64)
        return model, (inputs, self.targets(generator, count))


def _classes(number: int) -> Callable[[torch.Generator, int], Tensor]:
    return lambda generator, n: torch.randint(number, (n,), generator=generator)


def _reals(width: int) -> Callable[[torch.Generator, int], Tensor]:
    return lambda generator, n: torch.randn(n, width, generator=generator, dtype=torch.float64)


def _bits(*shape: int) -> Callable[[torch.Generator, int], Tensor]:
    return lambda generator, n: torch.randint(2, (n, *shape), generator=generator).double()


def _logistic() -> nn.Module:
    return nn.Linear(5, 3)


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 3)
    )


def _rectified_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False),
        nn.GroupNorm(2, 4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def _one_output() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0))


class _Tied(nn.Module):
    """One matrix in two layers; it has one name, and one place in the flat vector."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(5, 4)
        self.decoder = nn.Linear(4, 5)
        self.again = nn.Linear(5, 4)
        self.again.weight = self.encoder.weight

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.again(self.decoder(torch.tanh(self.encoder(inputs))))
        return outputs


class _Partial(nn.Module):
    """A frozen layer, a normalisation with buffers, and a layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(5, 4).requires_grad_(False)
        self.norm = nn.BatchNorm1d(4)
        self.shared = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)
        assert self.norm.running_mean is not None and self.norm.running_var is not None
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2.0)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.norm(self.frozen(inputs)))
        outputs: Tensor = self.head(torch.tanh(self.shared(torch.tanh(self.shared(hidden)))))
        return outputs


RISKS: Mapping[str, RiskCase] = {
    "logistic, cross-entropy": RiskCase(
        _logistic, nn.functional.cross_entropy, (5,), _classes(3), convex=True
    ),
    "logistic, bce": RiskCase(
        _logistic, nn.functional.binary_cross_entropy_with_logits, (5,), _bits(3), convex=True
    ),
    "linear, mse": RiskCase(_logistic, nn.functional.mse_loss, (5,), _reals(3), convex=True),
    "mlp, cross-entropy": RiskCase(_mlp, nn.functional.cross_entropy, (5,), _classes(3)),
    "mlp, mse": RiskCase(_mlp, nn.functional.mse_loss, (5,), _reals(3)),
    "mlp, huber": RiskCase(_mlp, nn.functional.huber_loss, (5,), _reals(3)),
    "mlp, bce": RiskCase(_mlp, nn.functional.binary_cross_entropy_with_logits, (5,), _bits(3)),
    "cnn, cross-entropy": RiskCase(_cnn, nn.functional.cross_entropy, (1, 6, 6), _classes(3)),
    "rectified cnn, cross-entropy": RiskCase(
        _rectified_cnn, nn.functional.cross_entropy, (2, 6, 6), _classes(3)
    ),
    "one output, bce": RiskCase(
        _one_output, nn.functional.binary_cross_entropy_with_logits, (5,), _bits()
    ),
    "tied, mse": RiskCase(_Tied, nn.functional.mse_loss, (5,), _reals(4)),
    "partly frozen, cross-entropy": RiskCase(
        _Partial, nn.functional.cross_entropy, (5,), _classes(3)
    ),
}


@dataclass(frozen=True)
class SolverCase:
    """A cubic solver and what it promises in float64.

    Attributes:
        make: Builds it.
        rtol: What it is asked for.
        budget: Maps d to the products with which it must get there.
        value: How far m(s) may lie above the optimum, relative to it.
        damping: How far sigma may lie from the optimal one, relative to it; and how far H + sigma I
            may be from semidefinite, relative to the norm of H.
        residual: Of (H + sigma I)s = -g, relative to ||g|| + (||H|| + sigma)||s||.
        looser: Kinds of OPERATORS on which ``value`` is larger.
    """

    make: Callable[[], CubicSolver]
    rtol: float
    budget: Callable[[int], int]
    value: float
    damping: float
    residual: float
    looser: Mapping[str, float] = field(default_factory=dict)


# Descent stops at a slope of rtol ||g||, and the model is quadratic about its minimum: hence
# values far better than rtol, but dampings like rtol times a condition number. The number of steps
# depends on the condition of H + sigma I and hardly on d; no kind but the wild ones needs more than
# 110 conjugate steps.
SOLVERS: Mapping[str, SolverCase] = {
    "krylov": SolverCase(
        KrylovCubicSolver, 0.0, lambda d: d, value=1e-8, damping=1e-9, residual=1e-11
    ),
    "dual": SolverCase(DualCubicSolver, 0.0, lambda d: d, value=1e-8, damping=1e-9, residual=1e-11),
    "conjugate descent": SolverCase(
        DescentCubicSolver, 1e-8, lambda d: 500, value=1e-8, damping=1e-5, residual=2e-8
    ),
    "gradient descent": SolverCase(
        lambda: DescentCubicSolver(conjugate=False),
        1e-6,
        lambda d: 1000,
        value=1e-8,
        damping=1e-4,
        residual=2e-6,
        # Condition numbers up to 1e6: plain gradients would need some of their number of steps.
        looser={"wildly scaled": 1e-4, "wildly scaled, indefinite": 1e-4},
    ),
}
