"""How much memory a graph holds, and how many examples one should span."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

# A chunk whose graph is of this size stays near the processor: larger ones are slower (measured:
# 2.5 times for a CNN at 400 MiB), much smaller ones spend their time on calls.
CHUNK_BYTES = 16 * 2**20
LARGEST_CHUNK = 2048
PROBED = 16


@dataclass(frozen=True)
class _Zeros:
    """Stands for a tensor of zeros that is not kept."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


@contextmanager
def counting_saved(*own: Tensor, drop_zeros: bool = False) -> Iterator[dict[int, int]]:
    """Collect what graphs built inside the block hold.

    Args:
        own: Tensors that are held anyway and do not count.
        drop_zeros: Keep the shape only of what is zero throughout.

    Yields:
        Sizes in bytes by storage, filled as the graphs grow.
    """
    held = {tensor.untyped_storage().data_ptr() for tensor in own}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor | _Zeros:
        where = tensor.untyped_storage().data_ptr()
        if where not in held:
            if drop_zeros and not tensor.any():
                return _Zeros(tensor.shape, tensor.dtype, tensor.device)
            sizes[where] = max(sizes.get(where, 0), tensor.nbytes)
        return tensor.detach()  # autograd knows its history; the tensor itself would make a cycle

    def unpack(saved: Tensor | _Zeros) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        return torch.zeros((), dtype=saved.dtype, device=saved.device).expand(saved.shape)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield sizes


def examples_per_chunk(
    loss_of: Callable[[Tensor], Tensor], inputs: Tensor, weights_bytes: int
) -> int:
    """Return how many examples to process at once: a power of two.

    Args:
        loss_of: Maps some inputs to their summed loss, with a graph.
        inputs: All inputs (n, ...); the first few are tried.
        weights_bytes: Size of the weights, which every chunk reads and whose gradient it writes:
            a chunk's graph should not be smaller.
    """
    few = inputs[:PROBED].clone()
    with torch.enable_grad(), counting_saved(few) as saved:
        loss_of(few)
    each = max(1, sum(saved.values()) // len(few))
    fitting = max(1, max(CHUNK_BYTES, weights_bytes) // each)
    return int(min(LARGEST_CHUNK, 2 ** (fitting.bit_length() - 1)))
