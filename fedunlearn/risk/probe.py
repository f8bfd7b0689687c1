"""Checks that must hold before any curvature product can be trusted.

A product belongs to a function of the weights. Dropout draws a new function at every call, and
BatchNorm in training mode makes an example's loss depend on its neighbours, so that sums over
chunks and nodes are no longer sums over examples.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedunlearn.errors import NoCurvatureError
from fedunlearn.risk.examples import Examples, Targets, batch_for, few
from fedunlearn.risk.network import twice_differentiable
from fedunlearn.risk.randomness import require_no_draws
from fedunlearn.risk.task import Loss
from fedunlearn.trees import map_tensors

PROBE_DIRECTIONS = 8
PROBE_SHARES = (0.1, 0.01)
PROBE_SEED = 0
# Relative to a loss of order 1: rounding of a saturated loss in float32 stays below.
NEGLIGIBLE_CURVATURE = 1e-4


def require_deterministic(model: nn.Module, loss: Loss, examples: Examples) -> None:
    """Refuse a model whose loss is not a function of weights and examples alone.

    Args:
        model: The model, in the mode in which it will be differentiated.
        loss: Mean over examples.
        examples: Some of them are used.

    Raises:
        NotDeterministicError: Naming the layer and what to use instead.
        TaskError: The model changes its own weights.
    """
    inputs, targets = batch_for(model, few(examples))

    def evaluate() -> tuple[object, Tensor]:
        with torch.no_grad(), twice_differentiable(model):
            outputs = model(inputs)
            return outputs, loss(outputs, targets)

    require_no_draws(model, loss, evaluate)


def require_ggn(loss: Loss, outputs: object, targets: Targets) -> None:
    """Refuse a loss for which Gauss-Newton products make no sense.

    Args:
        loss: Mean over examples.
        outputs: The model's, for a few examples (n, ...).
        targets: Targets of these examples.

    Raises:
        NoCurvatureError: The outputs are not one tensor; or the loss, as a function of them, has
            no curvature anywhere that was tried, or negative curvature, or torch cannot decide it.
        RuntimeError: The loss itself raised it, at the outputs.
        ValueError: The loss itself raised it, at the outputs.
    """
    if not isinstance(outputs, Tensor):
        raise NoCurvatureError(
            f"model: returns {type(outputs).__name__}, but GGN needs one tensor of outputs; "
            "return the logits, or use curvature = 'hessian'"
        )
    if outputs.ndim == 0:
        raise NoCurvatureError(
            "model and loss: the loss is computed in forward(), or of more than one tensor of "
            "outputs, so that GGN does not exist; let the loss take the logits alone, or use "
            "curvature = 'hessian'"
        )
    outputs, targets = _widened(outputs.detach()), map_tensors(_widened, targets)
    curves = False
    for number, point in enumerate(_points(outputs, targets)):
        try:
            smallest, largest = _curvature_of_loss(loss, point, targets)
        except (RuntimeError, ValueError) as error:
            if "not implemented" in str(error):
                raise NoCurvatureError(
                    f"loss: torch cannot differentiate it twice ({error}); write it with other "
                    "operations, or use cross-entropy on logits or mean squares"
                ) from error
            if number == 0:
                raise
            continue  # the loss is not defined there
        if smallest < -NEGLIGIBLE_CURVATURE * max(1.0, largest):
            raise NoCurvatureError(
                "loss: is not convex in the model's outputs, so GGN is not positive semidefinite; "
                "use curvature = 'hessian' or 'hessian-abs'"
            )
        curves = curves or largest > 0.0
    if not curves:
        raise NoCurvatureError(
            "loss: has no second derivative in the model's outputs (as L1, hinge, or NLLLoss after "
            "LogSoftmax), so GGN would be zero; use cross-entropy on logits or mean squares, or "
            "curvature = 'hessian'"
        )


def _points(outputs: Tensor, targets: Targets) -> list[Tensor]:
    """Return where to look at a loss: at the outputs, and where a loss that saturates still curves.

    Points between 0, outputs and targets, of which most losses allow each, and outputs of one
    example with the target of another, which are wrong where the model is right.
    """
    largest = outputs.abs().max().clamp(min=torch.finfo(outputs.dtype).tiny)
    points = [outputs, outputs * (10.0 / largest).clamp(max=1.0), outputs / largest]
    points += [point.roll(1, 0) for point in points]
    points += [share * outputs / largest for share in PROBE_SHARES]
    regression = isinstance(targets, Tensor) and targets.is_floating_point()
    if regression and targets.shape == outputs.shape:
        missed = outputs - targets
        missed = missed / missed.abs().max().clamp(min=1.0)
        points += [targets + share * missed for share in PROBE_SHARES]
    return points


def _widened(values: Tensor) -> Tensor:
    """Return what is of half precision in float32, whose rounding is negligible."""
    if not values.is_floating_point():
        return values
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _curvature_of_loss(loss: Loss, outputs: Tensor, targets: Targets) -> tuple[float, float]:
    """Return the smallest and the largest v'(d2 loss)v / v'v over examples and a few random v."""
    count = len(targets) if isinstance(targets, Tensor) else len(outputs)
    point = outputs.clone().requires_grad_()
    generator = torch.Generator().manual_seed(PROBE_SEED)
    with torch.enable_grad():
        total = loss(point, targets) * count
        (gradient,) = torch.autograd.grad(total, point, create_graph=True)
    if not gradient.requires_grad:
        return 0.0, 0.0
    quotients = []
    for _ in range(PROBE_DIRECTIONS):
        direction = torch.randn(outputs.shape, generator=generator).to(outputs)
        (image,) = torch.autograd.grad(
            gradient, point, direction, retain_graph=True, materialize_grads=True
        )
        rows = direction.reshape(count, -1)
        products = rows * image.reshape(count, -1)
        quotients.append(products.sum(1) / rows.square().sum(1))
    values = torch.cat(quotients).double()
    return float(values.min()), float(values.max())
