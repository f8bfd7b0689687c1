"""How much memory a graph holds, and how many examples one should span."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# A chunk whose graph is of this size stays near the processor: larger ones are slower (measured:
# 2.5 times for a CNN at 400 MiB), much smaller ones spend their time on calls.
CHUNK_BYTES = 16 * 2**20
LARGEST_CHUNK = 2048
PROBED = 16


@contextmanager
def counting_saved(*own: Tensor) -> Iterator[dict[int, int]]:
    """Collect what graphs built inside the block hold.

    Args:
        own: Tensors that are held anyway and do not count.

    Yields:
        Sizes in bytes by storage, filled as the graphs grow.
    """
    held = {tensor.untyped_storage().data_ptr() for tensor in own}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        where = tensor.untyped_storage().data_ptr()
        if where not in held:
            sizes[where] = max(sizes.get(where, 0), tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


def examples_per_chunk(loss_of: Callable[[Tensor], Tensor], inputs: Tensor) -> int:
    """Return how many examples to process at once: a power of two.

    Args:
        loss_of: Maps some inputs to their summed loss, with a graph.
        inputs: All inputs (n, ...); the first few are tried.
    """
    few = inputs[:PROBED].clone()
    with torch.enable_grad(), counting_saved(few) as saved:
        loss_of(few)
    each = max(1, sum(saved.values()) // len(few))
    fitting = max(1, CHUNK_BYTES // each)
    return int(min(LARGEST_CHUNK, 2 ** (fitting.bit_length() - 1)))
