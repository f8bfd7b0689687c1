"""A model as a function of flat weights, in a form that can be differentiated twice."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from fedunlearn.parameters import ParameterLayout
from fedunlearn.trees import Tree, map_tensors, tensors_of

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
            model: Model in the mode in which it is to be differentiated.
        """
        self.model = model
        self.layout = ParameterLayout.of(model)
        self._holder = _Holder(model)

    def outputs(self, weights: Tensor, inputs: Tree) -> Tensor:
        """Return the outputs for inputs, as the model takes them, at weights (d,)."""
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


class _Switch:
    """Something that is set for the whole process, while any thread needs it.

    The first thread that needs it sets it and the last one sets it back, however they overlap.
    """

    def __init__(self, setting: Callable[[], AbstractContextManager[object]]) -> None:
        self._setting = setting
        self._lock = threading.Lock()
        self._needed = 0
        self._stack = ExitStack()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have it set until the block ends.

        Yields:
            Nothing.
        """
        with self._lock:
            if self._needed == 0:
                self._stack.enter_context(self._setting())
            self._needed += 1
        try:
            yield
        finally:
            with self._lock:
                self._needed -= 1
                if self._needed == 0:
                    self._stack.close()


@contextmanager
def _plain_kernels() -> Iterator[None]:
    fast = torch.backends.mha.get_fastpath_enabled()
    with sdpa_kernel(SDPBackend.MATH):
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


_PLAIN_KERNELS = _Switch(_plain_kernels)
_EAGER = _Switch(lambda: torch.compiler.set_stance("force_eager"))
_NO_CUDNN = _Switch(lambda: torch.backends.cudnn.flags(enabled=False))


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
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    with ExitStack() as stack:
        stack.enter_context(_PLAIN_KERNELS.held())
        if recurrent:
            stack.enter_context(_NO_CUDNN.held())
        if "torch._dynamo" in sys.modules:  # else nothing can have been compiled
            stack.enter_context(_EAGER.held())
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
    of_one: Callable[[Tensor, Tree, Tree], Tensor],
    point: Tensor,
    inputs: Tree,
    targets: Tree,
) -> Tensor:
    """Return the gradient of every example as rows (n, d).

    Args:
        of_one: Maps the point, the inputs and the targets of one example to its loss.
        point: Shape (d,).
        inputs: Shape (n, ...), or a tree of such tensors.
        targets: Targets (n, ...) of the examples.
    """
    try:
        rows: Tensor = vmap(grad(of_one), in_dims=(None, 0, 0))(point, inputs, targets)
    except (RuntimeError, ValueError, TypeError):
        # Checkpointing, old-style functions, recurrent layers, forward() that looks at values.
        count = len(next(tensors_of(targets if targets is not None else inputs)))
        pairs = (
            [map_tensors(lambda one, i=i: one[i], tree) for tree in (inputs, targets)]  # type: ignore[misc]
            for i in range(count)
        )
        rows = torch.stack(
            [gradient_of(lambda at, one=one: of_one(at, *one), point) for one in pairs]  # type: ignore[misc]
        )
    return rows
