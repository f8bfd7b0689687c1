"""The bytes of a round: those of its tensors and of the values besides them, in messages.

Nodes in this process are sent no bytes, but these are counted all the same.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from torch import Tensor

NUMBER = 8  # bytes of an integer or a float

Value = int | float | str | bytes
Values = Sequence[int] | Sequence[float] | Sequence[str] | Sequence[bytes]


def values_bytes(values: Mapping[str, Value | Values]) -> int:
    """Return the bytes of named values, including their names.

    Args:
        values: Numbers, texts and bytes, or lists of them, by name.
    """
    total = 0
    for key, value in values.items():
        several = [value] if isinstance(value, int | float | str | bytes) else value
        total += len(key) + sum(len(v) if isinstance(v, str | bytes) else NUMBER for v in several)
    return total


def tensors_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return the bytes of named tensors in numpy's format, including their names.

    Args:
        tensors: The tensors by name.
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
