"""The same products by curvlinops, which ``requirements.txt`` installs for the benchmark alone."""

from __future__ import annotations

import functools
import importlib.util
import sys

import torch
from torch import Tensor, nn

from fedunlearn.risk.products import Curvature
from fedunlearn.risk.task import Examples
from tests.benchmarks.timing import Work

TOLERANCE = 1e-5


@functools.cache
def installed() -> bool:
    """Return whether curvlinops is there; say so once where it is not."""
    if importlib.util.find_spec("curvlinops"):
        return True
    print(
        "curvlinops is not installed, so nothing is compared with it; run make bench, or "
        "pip install --no-deps -r tests/benchmarks/requirements.txt",
        file=sys.stderr,
    )
    return False


def products(model: nn.Module, examples: list[Examples], curvature: Curvature) -> Work:
    """Return what multiplies the curvature of the mean cross-entropy with rows (k, d)."""
    import curvlinops

    operators = {
        Curvature.HESSIAN: curvlinops.HessianLinearOperator,
        Curvature.GGN: curvlinops.GGNLinearOperator,
    }
    parameters = list(model.parameters())

    def run(rows: Tensor) -> Tensor:
        operator = operators[curvature](
            *(model, nn.CrossEntropyLoss(), parameters, examples), check_deterministic=False
        )
        return torch.stack([operator @ row for row in rows])

    return run


def require_equal(theirs: Tensor, ours: Tensor) -> None:
    """End the benchmark where the two do not agree.

    Raises:
        SystemExit: By how much.
    """
    error = float((ours - theirs).norm() / theirs.norm())
    if not error <= TOLERANCE:
        raise SystemExit(
            f"curvlinops: its products differ from ours by {error:.1e}, more than {TOLERANCE:.0e}"
        )
