"""Layers and wrappers that are known not to work, refused by their class.

What a look at the model finds in any case is found here first, with the remedy of that layer.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import UninitializedParameter

from fedunlearn.errors import NotDeterministicError, TaskError


def name_of(model: nn.Module, name: str, module: nn.Module | None = None) -> str:
    """Return how messages name a module.

    Args:
        model: The whole model.
        name: The module's name in it; empty for the model itself.
        module: The module, where it is at hand.
    """
    kind = type(module or model.get_submodule(name)).__name__
    return f"model: layer {name!r} ({kind})" if name else f"model ({kind})"


def require_known_layers(model: nn.Module) -> None:
    """Refuse layers that draw, mix examples, change weights, or hide what they compute.

    Args:
        model: Model in the mode in which it will be differentiated.

    Raises:
        TaskError: Naming the layer and what to use instead.
        NotDeterministicError: The layer drops at random or mixes the examples of a batch.
    """
    for name, module in model.named_modules():
        where = name_of(model, name, module)
        if isinstance(module, _DropoutNd) and module.training and module.p > 0.0:
            raise NotDeterministicError(
                f"{where} drops at random, so curvature is undefined; "
                "use weight decay instead, or return the model in eval() mode"
            )
        if isinstance(module, _BatchNorm) and module.training:
            raise NotDeterministicError(
                f"{where} in training mode mixes the examples of a batch; "
                "use GroupNorm instead, or return the model in eval() mode"
            )
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise NotDeterministicError(
                f"{where} without running statistics mixes the examples of a batch, also in eval() "
                "mode; use GroupNorm instead, or track_running_stats=True and eval() mode"
            )
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
            raise TaskError(
                f"{where} with max_norm changes its weights in forward(); "
                "leave max_norm out, and use weight decay instead"
            )
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
            raise TaskError(
                f"{where} has sparse gradients, which do not add up in one vector; "
                "leave sparse=True out"
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise TaskError(
                f"{where} is TorchScript, whose weights cannot be replaced; "
                "return the module from before torch.jit.script or torch.jit.trace"
            )
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            raise TaskError(
                f"{where} copies the model to several devices, with weights of its own; "
                "return what it wraps (its attribute module)"
            )
        for parameter in module.parameters(recurse=False):
            if isinstance(parameter, UninitializedParameter):
                raise TaskError(
                    f"{where} has weights without a shape until the first batch comes; "
                    "give its sizes, or call the model on one example in model()"
                )
            if parameter.is_meta:
                raise TaskError(
                    f"{where} has weights on the meta device, which hold no numbers; "
                    "call to_empty() and set them in model()"
                )
            if parameter.is_complex():
                raise TaskError(
                    f"{where} has complex weights; hold their real and imaginary parts as two "
                    "parameters, and put them together by torch.complex in forward()"
                )
