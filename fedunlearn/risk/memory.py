"""How much memory a graph holds, and how many examples one should span."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from fedunlearn.trees import Tree, map_tensors, tensors_of

# A chunk whose graph is of this size stays near the processor: larger ones are slower (measured:
# 2.5 times for a CNN at 400 MiB), much smaller ones spend their time on calls.
CHUNK_BYTES = 16 * 2**20
LARGEST_CHUNK = 2048
PROBED = 16
# Bytes of a graph that cannot be watched: too many to keep.
UNKNOWN = 2**62


def refuses_hooks(error: RuntimeError) -> bool:
    """Return whether torch does not let a graph be watched: of models that use ``torch.func``."""
    return "saved tensor hooks" in str(error)


class _Kept:
    """A saved tensor; lives as long as the graph that saved it."""

    def __init__(self, tensor: Tensor) -> None:
        # Autograd knows its history; the tensor itself would make a cycle.
        self.tensor = tensor.detach()


@dataclass(frozen=True)
class _Zeros:
    """Stands for a tensor of zeros that is not kept.

    Attributes:
        form: Tensor of the same shape, strides and dtype, without data.
        device: Device of the tensor.
    """

    form: Tensor
    device: torch.device


@contextmanager
def counting_saved(*own: Tensor, drop_zeros: bool = False) -> Iterator[Callable[[], int]]:
    """Watch what graphs built inside the block hold.

    Args:
        own: Tensors that are held anyway and do not count.
        drop_zeros: Keep the form only of what is zero throughout.

    Yields:
        A function that returns how many bytes those graphs hold when it is called.
    """
    held = {tensor.untyped_storage().data_ptr() for tensor in own}
    saved: list[weakref.ref[_Kept]] = []

    def pack(tensor: Tensor) -> _Kept | _Zeros:
        if drop_zeros and tensor.untyped_storage().data_ptr() not in held and not tensor.any():
            return _Zeros(torch.empty_like(tensor, device="meta"), tensor.device)
        kept = _Kept(tensor)
        saved.append(weakref.ref(kept))
        return kept

    def unpack(packed: _Kept | _Zeros) -> Tensor:
        if isinstance(packed, _Kept):
            return packed.tensor
        # One zero, expanded, would do but for kernels that read past it: GroupNorm's for its means.
        return torch.zeros_like(packed.form, device=packed.device)

    def nbytes() -> int:
        sizes: dict[int, int] = {}
        for kept in (reference() for reference in saved):
            if kept is None or kept.tensor.untyped_storage().data_ptr() in held:
                continue
            size = min(kept.tensor.nbytes, kept.tensor.untyped_storage().nbytes())
            where = kept.tensor.data_ptr()  # parts of one storage add up
            sizes[where] = max(sizes.get(where, 0), size)
        return sum(sizes.values())

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield nbytes


def examples_per_chunk(
    loss_of: Callable[[Tree], Tensor], inputs: Tree, weights: Tensor, count: int | None = None
) -> int:
    """Return how many examples to process at once: a power of two.

    Args:
        loss_of: Maps some inputs to their summed loss, with a graph.
        inputs: Inputs (n, ...), of which the first few are tried; or a tree of those of ``count``
            examples, of which all are.
        weights: Those of ``loss_of``, which every chunk reads and whose gradient it writes: a
            chunk's graph should not be smaller.
        count: How many examples; needed for a tree.

    Raises:
        RuntimeError: The model or the loss raised it.
    """
    if isinstance(inputs, Tensor) and count is None:
        inputs = inputs[:PROBED]
        count = len(inputs)
    few = map_tensors(torch.clone, inputs)
    try:
        with torch.enable_grad(), counting_saved(*tensors_of(few), weights) as nbytes:
            loss = loss_of(few)
            each = max(1, nbytes() // (count or PROBED))
            del loss
    except RuntimeError as error:
        if not refuses_hooks(error):
            raise
        return PROBED
    fitting = max(1, max(CHUNK_BYTES, weights.nbytes) // each)
    return int(min(LARGEST_CHUNK, 2 ** (fitting.bit_length() - 1)))
