"""How many bytes a round takes: those of tensors and of values beside them, as messages carry them.

Nodes in this process are sent nothing, and are counted as if they were.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from torch import Tensor

NUMBER = 8  # bytes, of an integer or a float

Value = int | float | str | bytes
Values = Sequence[int] | Sequence[float] | Sequence[str] | Sequence[bytes]


def values_bytes(values: Mapping[str, Value | Values]) -> int:
    """Return what named values take, names included.

    Args:
        values: Numbers, texts and bytes, or lists of them, by name.
    """
    total = 0
    for key, value in values.items():
        several = [value] if isinstance(value, int | float | str | bytes) else value
        total += len(key) + sum(len(v) if isinstance(v, str | bytes) else NUMBER for v in several)
    return total


def tensors_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return what named tensors take in numpy's format, names included.

    Args:
        tensors: By name.
    """
    return sum(
        len(name) + _npy_header(tensor.dtype.itemsize, tuple(tensor.shape)) + tensor.nbytes
        for name, tensor in tensors.items()
    )


@cache
def _npy_header(itemsize: int, shape: tuple[int, ...]) -> int:
    """Return the bytes of the header of an array in numpy's format (NEP 1)."""
    header = {"descr": f"<f{itemsize}", "fortran_order": False, "shape": shape}
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.tell()
