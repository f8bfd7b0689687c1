"""The linear layer that is all that a network trains, its inputs, and the loss of its outputs.

Everything before the layer is frozen, so that its inputs do not depend on the trained weights and
the objective is convex in them. Inputs are computed in float64 by a copy of the network: recomputed
for other examples or in other batches, they agree to about 1e-15, which exact removal needs.
"""

from __future__ import annotations

import copy
import enum
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fedunlearn.errors import TaskError
from fedunlearn.risk.examples import Examples, are_labels, few
from fedunlearn.risk.task import Loss
from fedunlearn.trees import map_tensors

CHUNK = 256
AGREES = 1e-6
HINT = "freeze the rest: encoder.requires_grad_(False), nn.Sequential(encoder, nn.Linear(...))"


class HeadLoss(enum.StrEnum):
    """The losses of a linear layer's outputs that have a minimiser to be computed exactly."""

    SQUARED = "squared"
    CROSS_ENTROPY = "cross-entropy"
    ONE_VS_REST = "one-vs-rest"


def squared_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return half the squared distance of outputs to targets, mean over the examples.

    Args:
        outputs: Shape (n, classes).
        targets: Labels (n,), which stand for unit vectors; or numbers of the shape of the outputs.
    """
    wanted = target_rows(targets, outputs.shape[-1]).to(outputs.dtype)
    return 0.5 * (outputs.reshape(wanted.shape) - wanted).square().sum(1).mean()


def one_vs_rest_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the logistic loss of each class against the rest, summed, mean over the examples.

    Args:
        outputs: Shape (n, classes).
        targets: Labels (n,).
    """
    wanted = target_rows(targets, outputs.shape[-1]).to(outputs.dtype)
    each = nn.functional.binary_cross_entropy_with_logits(
        outputs.reshape(wanted.shape), wanted, reduction="none"
    )
    return each.sum(1).mean()


def target_rows(targets: Tensor, outputs: int) -> Tensor:
    """Return targets as rows (n, outputs): labels of several classes become unit vectors."""
    if are_labels(targets) and outputs > 1:
        return nn.functional.one_hot(targets, outputs)
    return targets.reshape(len(targets), -1)


class LinearHead:
    """The trainable linear layer of a network.

    Attributes:
        outputs: Number of outputs.
        bias: Whether it has a bias.
        inputs: Number of inputs, the bias among them.
    """

    def __init__(self, model: nn.Module) -> None:
        """Find the layer, and copy the network in float64.

        Args:
            model: The network, which is not changed.

        Raises:
            TaskError: Something else is trained than one whole ``nn.Linear``.
        """
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        owners = {name.rpartition(".")[0] for name in trained}
        owner = next(iter(owners)) if len(owners) == 1 else ""
        layer = model.get_submodule(owner)
        if len(owners) != 1 or not isinstance(layer, nn.Linear):
            raise TaskError(
                f"model: trains {_some(trained)}, not one nn.Linear after frozen layers, so that "
                f"the minimiser cannot be computed; {HINT}, or take solver = 'averaging'"
            )
        if len(trained) != 1 + (layer.bias is not None):
            raise TaskError("model: a part of its linear head is frozen; train weight and bias")
        self._model = copy.deepcopy(model).double().eval()
        self._layer = self._model.get_submodule(owner)
        generator = torch.Generator().manual_seed(0)
        for tensor in self._layer.parameters():  # not those of a layer that starts at 0
            drawn = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            tensor.data.copy_(drawn / layer.in_features**0.5)
        self.outputs = layer.out_features
        self.bias = layer.bias is not None
        self.inputs = layer.in_features + self.bias

    def features(self, examples: Examples, indices: Tensor) -> Tensor:
        """Compute the layer's inputs, with 1 for a bias.

        Args:
            examples: The examples.
            indices: The places (m,) of those to be computed.

        Returns:
            Rows (m, inputs), float64, in main memory.
        """
        rows = torch.empty(len(indices), self.inputs, dtype=torch.float64)
        for places in torch.arange(len(indices)).split(CHUNK):
            rows[places] = self._outputs(examples, indices[places])[0]
        return rows

    def require_linear(self, examples: Examples) -> None:
        """Check on a few examples that the network's outputs are those of the layer.

        Raises:
            TaskError: They are not: something follows the layer, or is added to it.
        """
        some = few(examples)
        places = torch.arange(len(some))
        rows, outputs = self._outputs(some, places)
        linear = rows @ self._weights().T
        if not isinstance(outputs, Tensor) or outputs.numel() != linear.numel():
            raise TaskError(f"model: its outputs are not those of its trained nn.Linear; {HINT}")
        difference = outputs.detach().reshape(linear.shape).cpu() - linear
        if float(difference.abs().max()) > AGREES * (1.0 + float(linear.abs().max())):
            raise TaskError(
                "model: its outputs are not those of its trained nn.Linear, since a layer follows "
                f"it or is added to it; {HINT}"
            )

    def _weights(self) -> Tensor:
        assert isinstance(self._layer, nn.Linear)
        weight = self._layer.weight.detach()
        if self._layer.bias is not None:
            weight = torch.cat([weight, self._layer.bias.detach()[:, None]], dim=1)
        return weight.cpu()

    def _outputs(self, examples: Examples, places: Tensor) -> tuple[Tensor, object]:
        """Return the layer's inputs (m, inputs) and the network's outputs for some examples."""
        device = next(self._layer.parameters()).device

        def moved(one: Tensor) -> Tensor:
            return one.to(device, torch.float64 if one.is_floating_point() else one.dtype)

        inputs = map_tensors(moved, examples.batch(places)[0])
        try:
            with torch.no_grad(), _inputs_of(self._layer) as seen:
                outputs = self._model(inputs)
        except (RuntimeError, TypeError, ValueError) as error:
            raise TaskError(
                f"model: cannot compute in float64 ({type(error).__name__}), which exact removal "
                "needs; avoid fixed dtypes in forward()"
            ) from error
        if len(seen) != 1 or seen[0].shape != (len(places), self.inputs - self.bias):
            raise TaskError(
                "model: its trained nn.Linear is not called once with one vector for each example; "
                f"{HINT}"
            )
        rows = seen[0].cpu()
        if self.bias:
            rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
        return rows, outputs


def loss_factor(kind: HeadLoss, loss: Loss, targets: Tensor, outputs: int) -> float:
    """Return the constant factor between a Task's loss and the sum formula of a kind.

    Args:
        kind: The kind.
        loss: The Task's loss, a mean over examples.
        targets: A few targets (n, ...).
        outputs: Number of outputs.

    Returns:
        The factor c of c / n times the sum of the losses of the kind.

    Raises:
        TaskError: The loss is no multiple of this kind.
    """
    generator = torch.Generator().manual_seed(0)
    at = torch.randn(len(targets), outputs, generator=generator, dtype=torch.float64)
    taken = targets.double() if targets.is_floating_point() else targets
    factors = []
    for scale in (0.5, 2.0):
        found = _gradient(lambda o: loss(o, taken), scale * at)
        wanted = _gradient(lambda o: KINDS[kind](o, taken), scale * at)
        if found is None or wanted is None:
            break
        factor = float((found * wanted).sum() / wanted.square().sum().clamp(min=1e-300))
        if factor <= 0.0 or not torch.allclose(found, factor * wanted, rtol=1e-5, atol=1e-9):
            break
        factors.append(factor)
    if len(factors) == 2 and abs(factors[0] - factors[1]) <= 1e-5 * factors[0]:
        return float(f"{factors[0]:.12g}")
    raise TaskError(
        f"loss: is not a multiple of the {kind} loss, mean over the examples; {LOSS_HINTS[kind]}, "
        "or take another training.solver"
    )


def cross_entropy_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of the softmax, mean over the examples."""
    return nn.functional.cross_entropy(outputs, targets)


KINDS: dict[HeadLoss, Callable[[Tensor, Tensor], Tensor]] = {
    HeadLoss.SQUARED: squared_loss,
    HeadLoss.CROSS_ENTROPY: cross_entropy_loss,
    HeadLoss.ONE_VS_REST: one_vs_rest_loss,
}
LOSS_HINTS = {
    HeadLoss.SQUARED: "take fedunlearn's squared_loss, or nn.MSELoss on unit vectors",
    HeadLoss.CROSS_ENTROPY: "take nn.CrossEntropyLoss() without weights and label smoothing",
    HeadLoss.ONE_VS_REST: "take fedunlearn's one_vs_rest_loss, or nn.BCEWithLogitsLoss for two "
    "classes",
}


def _gradient(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor | None:
    """Return the gradient at outputs (n, classes); None where the loss does not take them."""
    for shape in (at.shape, (len(at),)):
        if at.numel() != torch.Size(shape).numel():
            continue
        point = at.reshape(shape).clone().requires_grad_()
        try:
            (gradient,) = torch.autograd.grad(function(point), point)
        except (RuntimeError, TypeError, ValueError, IndexError):
            continue
        return gradient.reshape(at.shape)
    return None


@contextmanager
def _inputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the inputs of a layer while the block runs.

    Yields:
        The inputs of each call.
    """
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    try:
        yield seen
    finally:
        handle.remove()


def _some(names: set[str]) -> str:
    first = sorted(names)
    more = f" and {len(first) - 3} more" if len(first) > 3 else ""
    return ", ".join(first[:3]) + more
