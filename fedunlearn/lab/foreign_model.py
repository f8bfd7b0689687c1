"""A model that other code unlearned, read from a safetensors file and checked.

The file holds the model's ``state_dict``: trained weights, frozen parameters and saved buffers,
such as running statistics, under the names of the scenario's own network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from fedunlearn.errors import InputError, TaskError
from fedunlearn.networks import fixed_tensors
from fedunlearn.parameters import flatten_state
from fedunlearn.unlearning.method import Claim

SAVE = "save it with safetensors.torch.save_file(model.state_dict(), path)"
NAMES = "give the state_dict of the scenario's own model, as run --save-models writes it"


@dataclass(frozen=True, eq=False)
class ForeignModel:
    """A model that other code unlearned.

    Attributes:
        weights: Its trainable parameters (d,).
        state: Its frozen parameters and saved buffers, by name in ``state_dict``.
        sha256: Digest of its file.
    """

    weights: Tensor
    state: Mapping[str, Tensor]
    sha256: str

    def described(self) -> dict[str, object]:
        """Return what results hold of it besides its metrics: no cost, since none is known."""
        return {
            "status": "evaluated; its cost is not known",
            "claim": Claim.EMPIRICAL.value,
            "details": {"sha256": self.sha256},
        }

    @contextmanager
    def loaded_into(self, workspace: nn.Module) -> Iterator[None]:
        """Let a network hold the frozen parameters and buffers of this model inside the block."""
        before = {name: tensor.clone() for name, tensor in fixed_tensors(workspace).items()}
        workspace.load_state_dict(self.state, strict=False)
        try:
            yield
        finally:
            workspace.load_state_dict(before, strict=False)


def read_foreign_model(path: Path, model: nn.Module) -> ForeignModel:
    """Read a model that other code unlearned.

    Args:
        path: A safetensors file with the state_dict.
        model: The scenario's network, whose names, shapes and kinds of numbers it must have.

    Returns:
        The model.

    Raises:
        InputError: The file cannot be read, or is of another model, or has numbers that are not
            finite; the first tensor that differs is named.
    """
    try:
        content = path.read_bytes()
        state = safetensors.torch.load(content)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read: {error.strerror}; give a file of the model"
        ) from None
    except (SafetensorError, ValueError, KeyError):
        raise InputError(f"{path}: is not a safetensors file; {SAVE}") from None
    _require_names(path, state, model)
    own = model.state_dict()
    for name, tensor in state.items():
        wanted = own[name]
        if tensor.is_floating_point() != wanted.is_floating_point() or tensor.is_complex():
            raise InputError(
                f"{path}: tensor {name!r} is {_kind(tensor)}, the model's {_kind(wanted)}; {NAMES}"
            )
        if tensor.shape != wanted.shape:
            raise InputError(
                f"{path}: tensor {name!r} has shape {tuple(tensor.shape)}, the model's "
                f"{tuple(wanted.shape)}; {NAMES}"
            )
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            bad = tensor.numel() - int(tensor.isfinite().sum())
            raise InputError(
                f"{path}: {bad} of {tensor.numel()} numbers of tensor {name!r} are NaN or "
                "infinite; give a model that did not diverge"
            )
    try:
        weights = flatten_state(model, state)
    except TaskError as error:
        raise InputError(f"{path}: {error}") from None
    fixed = {name: state[name].to(own[name].dtype) for name in fixed_tensors(model)}
    return ForeignModel(weights, fixed, hashlib.sha256(content).hexdigest())


def _require_names(path: Path, state: Mapping[str, Tensor], model: nn.Module) -> None:
    """Check that the names are the model's own; a tied parameter needs one of its names."""
    own = model.state_dict(keep_vars=True)
    unknown = [name for name in state if name not in own]
    if unknown:
        hint = NAMES
        for prefix in ("module.", "_orig_mod.", "model.", "net."):
            if unknown[0].startswith(prefix) and unknown[0].removeprefix(prefix) in own:
                hint = f"leave out the prefix {prefix!r} of a wrapper"
        raise InputError(
            f"{path}: holds tensor {unknown[0]!r}, which the scenario's model does not have; {hint}"
        )
    held = {id(own[name]) for name in state}
    for name, tensor in own.items():
        if id(tensor) not in held:
            raise InputError(
                f"{path}: has no tensor {name!r}, which the scenario's model has; {NAMES}"
            )


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
