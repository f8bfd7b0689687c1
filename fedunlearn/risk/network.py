"""A model as a function of flat weights, in a form that can be differentiated twice."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from fedunlearn.parameters import ParameterLayout

T = TypeVar("T")


class FlatNetwork:
    """A model at flat weights (d,).

    Attributes:
        model: The model; its own weights are not used.
        layout: Where its tensors lie in the flat weights.
    """

    def __init__(self, model: nn.Module) -> None:
        """Wrap a model.

        Args:
            model: In the mode in which it is to be differentiated.
        """
        self.model = model
        self.layout = ParameterLayout.of(model)
        self._holder = _Holder(model)

    def outputs(self, weights: Tensor, inputs: Tensor) -> Tensor:
        """Return the outputs for inputs (n, ...) at weights (d,)."""
        outputs: Tensor = functional_call(self.model, self.layout.unflatten(weights), (inputs,))
        return outputs

    def holding(self, weights: Tensor, act: Callable[[], T]) -> T:
        """Run something while the model has weights (d,), and the kernels have derivatives.

        A model with gradient checkpointing computes its activations again while a graph is walked,
        with the weights that it has then. Whatever walks a graph must therefore run in here.

        Args:
            weights: The weights of the graph.
            act: What to run.

        Returns:
            What it returned.
        """
        with torch.enable_grad():  # what is computed again must save what it saved at first
            parts = self.layout.unflatten(weights.detach().requires_grad_())
        held = {f"model.{name}": part for name, part in parts.items()}
        with twice_differentiable(self.model):
            result: T = functional_call(self._holder, held, (act,))
        return result


class _Holder(nn.Module):
    """Calls a function while ``functional_call`` has replaced the weights of a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, act: Callable[[], T]) -> T:
        return act()


@contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Use kernels that have a second derivative, and the same ones with and without a graph.

    Fused attention and cuDNN's recurrent layers have none, and neither has compiled code. The fast
    path of ``nn.TransformerEncoderLayer`` is another function where tokens are masked.

    Args:
        model: What is to be differentiated.

    Yields:
        Nothing.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if "torch._dynamo" in sys.modules:  # else nothing can have been compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        yield


def gradient_of(function: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    """Return the gradient (d,) of a scalar function at a point (d,); 0 where it is constant.

    Not with ``torch.func.grad``, which refuses checkpointing and old-style functions.
    """
    at = point.detach().requires_grad_()
    with torch.enable_grad():
        value = function(at)
    if not value.requires_grad:
        return torch.zeros_like(point)
    (gradient,) = torch.autograd.grad(value, at, materialize_grads=True)
    return gradient


def gradient_of_each(
    of_one: Callable[[Tensor, Tensor, Tensor], Tensor],
    point: Tensor,
    inputs: Tensor,
    targets: Tensor,
) -> Tensor:
    """Return the gradient of every example as rows (n, d).

    Args:
        of_one: Maps the point, the inputs and the targets of one example to its loss.
        point: Shape (d,).
        inputs: Shape (n, ...).
        targets: Shape (n, ...).
    """
    try:
        rows: Tensor = vmap(grad(of_one), in_dims=(None, 0, 0))(point, inputs, targets)
    except RuntimeError:  # checkpointing, old-style functions, recurrent layers: one by one
        pairs = zip(inputs, targets, strict=True)
        rows = torch.stack(
            [gradient_of(lambda at, one=one: of_one(at, *one), point) for one in pairs]  # type: ignore[misc]
        )
    return rows
