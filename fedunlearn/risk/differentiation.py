"""One gradient and one product on a few examples, before anything depends on them.

Products are compared with differences of gradients: whatever makes a second derivative wrong
(an ``autograd.Function`` that saves what it should compute, activations computed again at other
weights) makes them differ. Both are taken of a copy of the model in float64, where differences are
good to many digits; where the model does not compute in float64, in its own precision, coarsely.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fedunlearn.errors import NonFiniteError, NotDifferentiableError, TaskError
from fedunlearn.parameters import ParameterLayout, flatten
from fedunlearn.risk.causes import explained
from fedunlearn.risk.examples import Batch, Examples, batch_for, few
from fedunlearn.risk.layers import name_of
from fedunlearn.risk.network import FlatNetwork, gradient_of
from fedunlearn.risk.products import Curvature, Function, keep_product
from fedunlearn.risk.seen import Seen
from fedunlearn.risk.task import Loss
from fedunlearn.trees import map_tensors

# How many examples; fewer where a derivative in float64 takes long.
EXAMPLES, OF_LARGE = 4, 2
LARGE = 100_000
SEED = 0
# Steps of the differences, relative to the weights' size. Small ones step over no kink of a ReLU,
# of which a ResNet has so many that 1e-6 meets some; large ones drown the rounding of a part that
# computes in float32.
STEPS = (1e-7, 1e-9, 1e-5, 1e-3, 1e-8, 1e-4, 1e-2)
COARSE_STEPS = (1e-2, 3e-2, 1e-1, 3e-3)
COARSE = 0.5
TOLERANCE = 1e-3
PARTS = 1e-2  # of one tensor's share of a product
SMALL = 1e-6  # of the whole product: a tensor whose share is less is not looked at
# Shift of the weights, relative to their size: a layer that starts at zero hides those before it.
SHIFT = 0.05

_seen = Seen()


def require_differentiable(model: nn.Module, loss: Loss, examples: Examples) -> None:
    """Refuse a model or a loss whose gradients or products do not exist, or are wrong.

    What was found for a model is not looked for again with examples of the same form.

    Args:
        model: Model in the mode in which it will be differentiated; it is restored.
        loss: Mean over examples.
        examples: A few of them are used.

    Raises:
        NotDifferentiableError: Naming the cause, the layer and what to do.
        NonFiniteError: A derivative is NaN or infinite where the loss is not.
        TaskError: Another cause, with its remedy.
    """
    count = EXAMPLES if ParameterLayout.of(model).dimension <= LARGE else OF_LARGE
    some = few(examples)
    some = some.at(torch.arange(min(count, len(some))))
    if _seen.holds(model, loss, some):
        return
    batch = batch_for(model, some)
    with explained(model, loss, some):
        _Derivatives(model, loss, batch, len(some)).require_finite()
    _require_right(model, loss, batch, len(some))
    _seen.add(model, loss, some)


class _Derivatives:
    """A gradient and products of the loss of a few examples."""

    def __init__(self, model: nn.Module, loss: Loss, batch: Batch, count: int) -> None:
        self.model = model
        self.flat = FlatNetwork(model)
        inputs, targets = batch
        self.network: Function = lambda weights: self.flat.outputs(weights, inputs)
        self.loss: Function = lambda outputs: loss(outputs, targets) * count
        self.weights = flatten(model).to(self.flat.layout.device)
        generator = torch.Generator().manual_seed(SEED)
        sizes = _sizes(self.flat.layout, self.weights)
        normal = torch.randn(2, len(sizes), generator=generator, dtype=torch.float64)
        self.direction, shift = (normal.to(sizes) * sizes).unbind()
        self.shifted = self.weights + SHIFT * shift

    def gradient(self, weights: Tensor) -> Tensor:
        return self.flat.holding(
            weights, lambda: gradient_of(lambda at: self.loss(self.network(at)), weights)
        )

    def product(self, weights: Tensor) -> Tensor:
        rows = self.direction[None]
        return self.flat.holding(
            weights,
            lambda: keep_product(Curvature.HESSIAN, self.network, self.loss, weights).apply(rows),
        )[0]

    def require_finite(self) -> None:
        """Refuse a loss without a slope, and derivatives that are not finite."""
        with torch.no_grad():
            value = self.flat.holding(self.weights, lambda: self.loss(self.network(self.weights)))
        if not value.isfinite():
            raise NonFiniteError(
                "loss: is NaN or infinite for a few examples at the model's own weights; scale the "
                "inputs, keep logarithms and roots away from 0, or load a model that trained"
            )
        gradient = self.gradient(self.weights)
        self._require_slope()
        _require_finite(self, gradient, "gradient")
        _require_finite(self, self.product(self.weights), "curvature product")

    def _require_slope(self) -> None:
        def slope() -> bool:
            outputs = self.network(self.weights.detach().requires_grad_())
            return self.loss(outputs).requires_grad

        with torch.enable_grad():
            if not self.flat.holding(self.weights, slope):
                raise NotDifferentiableError(
                    f"{name_of(self.model, '')} and loss: torch finds no way from the loss back to "
                    "the weights; leave detach(), no_grad() and argmax() out of forward() and loss"
                )

    def transposed(self, weights: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return <u, J v> and <J'u, v> for a random u, which are equal, and |u| |J v|.

        J v is taken as in GGN products. None where the outputs are not one tensor.
        """

        def both() -> tuple[Tensor, Tensor, Tensor] | None:
            point = weights.detach().requires_grad_()
            with torch.enable_grad():
                outputs = self.network(point)
                if not isinstance(outputs, Tensor) or not outputs.requires_grad:
                    return None
                zeros = torch.zeros_like(outputs, requires_grad=True)
                (back,) = torch.autograd.grad(
                    outputs, point, zeros, create_graph=True, materialize_grads=True
                )
                if not back.requires_grad:
                    return None
                (image,) = torch.autograd.grad(
                    back, zeros, self.direction, retain_graph=True, materialize_grads=True
                )
                generator = torch.Generator().manual_seed(SEED)
                u = torch.randn(outputs.shape, generator=generator, dtype=torch.float64)
                u = u.to(outputs)
                (pulled,) = torch.autograd.grad(outputs, point, u, materialize_grads=True)
            size = u.double().norm() * image.double().norm()
            return (image * u).sum(), (pulled * self.direction).sum(), size

        return self.flat.holding(weights, both)


def _sizes(layout: ParameterLayout, weights: Tensor) -> Tensor:
    """Return the size of each weight's tensor (d,): its root mean square, or .1 where it is 0."""
    parts = weights.split([shape.numel() for shape in layout.shapes])
    roots = (part.double().square().mean().sqrt() if part.numel() else part.sum() for part in parts)
    return torch.cat(
        [
            torch.full_like(part, float(root) if 0.0 < float(root) < 1e6 else 0.1)
            for part, root in zip(parts, roots, strict=True)
        ]
    )


def _require_finite(derivatives: _Derivatives, vector: Tensor, what: str) -> None:
    if bool(vector.isfinite().all()):
        return
    parts = derivatives.flat.layout.unflatten(vector)
    # What is closest to the outputs is closest to the cause.
    name = [name for name, part in parts.items() if not bool(part.isfinite().all())][-1]
    raise NonFiniteError(
        f"model: the {what} of {name!r} is NaN or infinite where the loss is finite, as that of "
        "sqrt(), norm() or a power is at 0; add a small number under the root, as "
        "(x.square().sum() + 1e-12).sqrt()"
    )


def _require_right(model: nn.Module, loss: Loss, batch: Batch, count: int) -> None:
    """Compare a product with differences of gradients."""
    try:
        wide = copy.deepcopy(model).double()
        inputs, targets = (
            map_tensors(lambda one: one.double() if one.is_floating_point() else one, tree)
            for tree in batch
        )
        derivatives = _Derivatives(wide, _widened(loss), (inputs, targets), count)
        with _Dtypes() as seen, torch.no_grad():
            wide(inputs)
        if seen.coarsest > torch.finfo(torch.float32).eps:  # a part rounds, whatever it is given
            _compare(derivatives, COARSE_STEPS, COARSE)
        else:
            _compare(derivatives, STEPS, TOLERANCE)
    except (TaskError, NonFiniteError):
        raise
    except Exception:  # it does not compute in float64, or cannot be copied
        derivatives = _Derivatives(model, loss, batch, count)
        coarsest = max(torch.finfo(dtype).eps for dtype in derivatives.flat.layout.dtypes)
        _compare(derivatives, COARSE_STEPS, 0.05 if coarsest < 1e-5 else COARSE)


def _widened(loss: Loss) -> Loss:
    """Return the loss in float64, of those that are modules with weights of their own."""
    if isinstance(loss, nn.Module):
        wide: Loss = copy.deepcopy(loss).double()
        return wide
    return loss


def _compare(derivatives: _Derivatives, steps: Sequence[float], tolerance: float) -> None:
    at = derivatives.shifted
    slopes = derivatives.gradient(at)
    if not bool(slopes.isfinite().all()):
        at = derivatives.weights
        slopes = derivatives.gradient(at)
    slope = float(slopes.norm())
    # What has no slope by decree, as the row of an Embedding's padding_idx, stays where it is.
    derivatives.direction = derivatives.direction * (slopes != 0.0)
    product = derivatives.product(at)
    worst = _nearest(derivatives, at, product, slope, steps, tolerance)
    if worst is not None:
        raise NotDifferentiableError(
            f"model: the second derivative that torch computes for {worst!r} is not that of its "
            f"gradient{_suspects(derivatives)}"
        )
    pair = derivatives.transposed(at)
    if pair is not None:
        forward, backward, size = (float(one) for one in pair)
        rounding = 1024.0 * torch.finfo(product.dtype).eps * size
        if abs(forward - backward) > tolerance * max(abs(forward), abs(backward)) + rounding:
            raise NotDifferentiableError(
                "model: what torch computes as the change of the outputs is not that of its "
                f"gradient{_suspects(derivatives)}"
            )


def _nearest(
    derivatives: _Derivatives,
    at: Tensor,
    product: Tensor,
    slope: float,
    steps: Sequence[float],
    tolerance: float,
) -> str | None:
    """Return in which tensor's part no difference of gradients is the product; None if one is."""
    worst: str | None = None
    for step in steps:
        ahead, behind = (
            derivatives.gradient(at + sign * step * derivatives.direction) for sign in (1.0, -1.0)
        )
        difference = (ahead - behind) / (2.0 * step)
        rounding = 64.0 * torch.finfo(product.dtype).eps * slope / step
        wrong = _differs(derivatives, product, difference, tolerance, rounding)
        if wrong is None:
            return None
        worst = worst or wrong
    return worst


class _Dtypes(TorchFunctionMode):
    """Notes the dtypes of what torch's functions return."""

    def __init__(self) -> None:
        super().__init__()
        self.coarsest = 0.0

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_floating_point():
            self.coarsest = max(self.coarsest, torch.finfo(result.dtype).eps)
        return result


def _differs(
    derivatives: _Derivatives,
    product: Tensor,
    difference: Tensor,
    tolerance: float,
    rounding: float,
) -> str | None:
    """Return the name of a tensor in whose part a product is not the difference; None if equal."""
    whole = float(torch.maximum(product.norm(), difference.norm()))
    # In units in which every tensor's part counts as much as its weights are large.
    if not torch.isfinite(difference).all():
        return derivatives.flat.layout.names[0]
    apart = (product - difference).norm()
    sizes = [shape.numel() for shape in derivatives.flat.layout.shapes]
    parts = zip(
        derivatives.flat.layout.names, product.split(sizes), difference.split(sizes), strict=True
    )
    wrong: list[tuple[float, str]] = []
    for name, one, other in parts:
        larger = float(torch.maximum(one.norm(), other.norm()))
        allowed = max(PARTS, tolerance) * larger + SMALL * whole + rounding
        if float((one - other).norm()) > allowed:
            wrong.append((float((one - other).norm()), name))
    if wrong:
        return max(wrong)[1]
    if float(apart) > tolerance * whole + rounding:
        return derivatives.flat.layout.names[0]
    return None


def _suspects(derivatives: _Derivatives) -> str:
    """Name what may be the cause, and what to do."""

    def value() -> Tensor:
        return derivatives.loss(derivatives.network(derivatives.weights.detach().requires_grad_()))

    with torch.enable_grad():
        functions = set(_custom(derivatives.flat.holding(derivatives.weights, value).grad_fn))
    once = sorted(kind.__name__ for kind in functions if _once(kind))
    if once:
        return (
            f": backward of the autograd.Function {', '.join(once)} is marked once_differentiable; "
            "write it with torch's operations and leave the mark out"
        )
    if functions:
        names = sorted(kind.__name__ for kind in functions)
        return (
            f", as of the autograd.Function {', '.join(names)}; let backward use torch's "
            "operations alone, on what it is given and what save_for_backward keeps of inputs and "
            "outputs, without detach() and NumPy"
        )
    if _weight_norm(derivatives.model):
        return (
            ", an error of torch's fused weight_norm; parametrize the weight by a module that "
            "returns v * (g / v.norm(dim=1, keepdim=True)) instead"
        )
    return (
        "; replace the layer it belongs to by one of other operations, and turn gradient "
        "checkpointing off if there is any"
    )


def _weight_norm(model: nn.Module) -> bool:
    kinds = {type(module).__name__ for module in model.modules()}
    hooks = (hook for module in model.modules() for hook in module._forward_pre_hooks.values())
    return "_WeightNorm" in kinds or any(type(hook).__name__ == "WeightNorm" for hook in hooks)


def _custom(start: torch.autograd.graph.Node | None) -> Iterator[type]:
    """Yield the autograd functions of Python that lie behind a node of a graph."""
    seen: set[torch.autograd.graph.Node] = set()
    waiting = [start]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            yield type(node)._forward_cls
        waiting += [after for after, _ in node.next_functions]


def _once(kind: type) -> bool:
    """Return whether a function's backward is torch's wrapper that refuses to go on."""
    code = getattr(getattr(kind, "backward", None), "__code__", None)
    return code is not None and code.co_filename == torch.autograd.function.__file__
