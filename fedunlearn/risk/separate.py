"""Checks that the risk is a sum over examples: what one adds depends on it alone.

Sums over chunks and over nodes are sums over examples only then.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedunlearn.errors import NotDeterministicError, TaskError
from fedunlearn.parameters import ParameterLayout
from fedunlearn.risk.examples import Examples, Targets, batch_for, few
from fedunlearn.risk.network import twice_differentiable
from fedunlearn.risk.seen import Seen
from fedunlearn.risk.task import Loss
from fedunlearn.trees import has_rows, map_tensors

# Between kernels for different batch sizes, relative to the largest output: 32 roundings.
ROUNDINGS = 32.0

_seen = Seen()


def require_separate_examples(model: nn.Module, loss: Loss, examples: Examples) -> None:
    """Refuse a model or a loss in which examples have to do with each other.

    Args:
        model: Model in the mode in which it will be differentiated.
        loss: Must be the mean over examples.
        examples: Some of them are used.

    Raises:
        TaskError: The loss is no mean over examples.
        NotDeterministicError: The outputs for an example depend on the others.
    """
    some = few(examples)
    inputs, targets = batch_for(model, some)
    with torch.no_grad(), twice_differentiable(model):
        outputs = model(inputs)
        _require_own_outputs(model, outputs, some)
        _require_mean_loss(model, loss, some)
    if _seen.holds(model, loss, some):
        return
    if isinstance(outputs, Tensor) and outputs.is_floating_point():
        _require_own_slopes(loss, outputs, targets)
    _seen.add(model, loss, some)


def _require_own_outputs(model: nn.Module, outputs: object, examples: Examples) -> None:
    count = len(examples)
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point() or count < 2:
        return
    if outputs.ndim == 0 or len(outputs) != count:
        return  # one for several examples, as in sequences that are packed: the loss is looked at
    part = model(batch_for(model, examples, torch.arange(count // 2))[0])
    if not isinstance(part, Tensor) or part.shape[1:] != outputs.shape[1:]:
        return
    whole, part = outputs[: count // 2].double(), part.double()
    coarsest = max(torch.finfo(dtype).eps for dtype in ParameterLayout.of(model).dtypes)
    scale = float(whole.abs().max())
    apart = float((whole - part).abs().max())
    if apart > max(1e-3, ROUNDINGS * coarsest) * scale:
        raise NotDeterministicError(
            "model: the outputs for an example depend on the other examples of its batch; "
            "normalise with GroupNorm or LayerNorm, or return the model in eval() mode"
        )


def _require_mean_loss(model: nn.Module, loss: Loss, examples: Examples) -> None:
    count = len(examples)
    places = torch.arange(count)

    def at(places: Tensor) -> Tensor:
        inputs, targets = batch_for(model, examples, places)
        return loss(model(inputs), targets)

    once = at(places)
    twice = at(places.repeat(2))
    if once.ndim != 0:
        raise TaskError(
            f"loss: returns shape {tuple(once.shape)}; use a scalar, as with reduction='mean'"
        )
    # The loss of a model that fits its data is rounding: no sign of anything.
    eps = torch.finfo(once.dtype).eps
    rounding, share = 16.0 * eps, max(1e-3, 4.0 * eps)
    if not torch.allclose(once, twice, rtol=share, atol=rounding, equal_nan=True):
        raise TaskError("loss: is not the mean over examples; use reduction='mean'")
    cuts = (places[: count // 3], places[count // 3 :])
    parts = [at(cut) * (len(cut) / count) for cut in cuts if len(cut)]
    if not torch.allclose(
        once, torch.stack(parts).sum(), rtol=share, atol=rounding, equal_nan=True
    ):
        inputs, targets = batch_for(model, examples)
        raise TaskError(_broadcast(model(inputs), targets) or _NO_SUM)


_NO_SUM = (
    "loss: of two parts does not add up to that of the whole, as with class weights or "
    "ignore_index, which divide by other than the number of examples; weigh them with "
    "reduction='none' and return the mean()"
)


def _require_own_slopes(loss: Loss, outputs: Tensor, targets: Targets) -> None:
    """Refuse a loss whose slope in one example's outputs depends on the other examples.

    The values need not show it: the mean of squares over all pairs of outputs and targets is, where
    they are not correlated, that over the pairs which belong together.

    Raises:
        TaskError: The loss broadcasts; the message names the shapes.
    """
    count = 0 if outputs.ndim == 0 else len(outputs)
    if count < 2 or not has_rows(targets, count):
        return
    try:
        whole = _slopes(loss, outputs, targets) * count
        each = torch.cat(
            [
                _slopes(loss, outputs[cut], map_tensors(lambda one, cut=cut: one[cut], targets))  # type: ignore[misc]
                for cut in (slice(i, i + 1) for i in range(count))
            ]
        )
    except (RuntimeError, ValueError, IndexError):
        return  # not defined for one example, or not differentiable: said where it matters
    whole, each = whole.double(), each.double()
    both = whole.isfinite() & each.isfinite()
    scale = max(1e-30, float((each.abs() * both).nan_to_num().max()))
    apart = float(((whole - each).nan_to_num() * both).abs().max())
    if apart > max(1e-3, ROUNDINGS * torch.finfo(outputs.dtype).eps) * scale:
        raise TaskError(_broadcast(outputs, targets) or _NO_SUM)


def _slopes(loss: Loss, outputs: Tensor, targets: Targets) -> Tensor:
    at = outputs.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = loss(at, targets)
    if not value.requires_grad:
        return torch.zeros_like(outputs)
    (slopes,) = torch.autograd.grad(value, at, materialize_grads=True)
    return slopes


def _broadcast(outputs: object, targets: Targets) -> str | None:
    """Return what is wrong where outputs and targets stretch each other to pairs of examples."""
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        return None
    try:
        pairs = torch.broadcast_shapes(outputs.shape, targets.shape)
    except RuntimeError:
        return None
    if pairs in (outputs.shape, targets.shape):
        return None
    shapes = f"{tuple(outputs.shape)} and {tuple(targets.shape)}"
    return (
        f"loss: outputs and targets have shapes {shapes}, which are stretched to {tuple(pairs)}: "
        "every output meets every target; give both one shape, as targets[:, None] or "
        "outputs.squeeze(1)"
    )
