"""Tensors in nested tuples, lists and dictionaries, such as batches of examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

# A tensor, or tensors in nested tuples, lists and dictionaries.
Tree = Any


def map_tensors(function: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    """Apply a function to every tensor of a tree.

    Args:
        function: Maps a tensor to a tensor.
        tree: The tree, which is not changed; values that are not tensors are copied to the result.

    Returns:
        A tree of the same structure. Mappings of other classes become dictionaries.
    """
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: map_tensors(function, one) for key, one in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_tensors(function, one) for one in tree))
    if isinstance(tree, list | tuple):
        return type(tree)(map_tensors(function, one) for one in tree)
    return tree


def tensors_of(tree: Tree) -> Iterator[Tensor]:
    """Yield the tensors of a tree, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for one in tree.values():
            yield from tensors_of(one)
    elif isinstance(tree, list | tuple):
        for one in tree:
            yield from tensors_of(one)


def has_rows(tree: Tree, count: int) -> bool:
    """Return whether all values of a tree are tensors of shape (count, ...)."""
    if isinstance(tree, Tensor):
        return tree.ndim > 0 and len(tree) == count
    if isinstance(tree, Mapping):
        return bool(tree) and all(has_rows(one, count) for one in tree.values())
    if isinstance(tree, list | tuple):
        return bool(tree) and all(has_rows(one, count) for one in tree)
    return False


def described(tree: Tree) -> str:
    """Return a description of a tree by shapes and dtypes, without any of its numbers."""
    if isinstance(tree, Tensor):
        return f"shape {tuple(tree.shape)}, {str(tree.dtype).removeprefix('torch.')}"
    if isinstance(tree, Mapping):
        return "{" + "; ".join(f"{key}: {described(one)}" for key, one in tree.items()) + "}"
    if isinstance(tree, list | tuple):
        return "(" + "; ".join(described(one) for one in tree) + ")"
    return type(tree).__name__


def extent(tree: Tree) -> int:
    """Return the number of numbers, characters and bytes in a tree, as a measure of its length."""
    if isinstance(tree, Tensor):
        return tree.numel()
    if isinstance(tree, np.ndarray):
        return tree.size
    if isinstance(tree, Mapping):
        return sum(extent(one) for one in tree.values())
    if isinstance(tree, str | bytes):
        return len(tree)
    if isinstance(tree, list | tuple):
        if tree and isinstance(tree[0], int | float):
            return len(tree)
        return sum(extent(one) for one in tree)
    return 1


def paired_records(inputs: Tensor, targets: Tensor) -> Iterator[bytes]:
    """Return the bytes of each example of two tensors (n, ...).

    Yields:
        The dtype and shape of input and target, then their little-endian bytes.
    """
    for example, target in zip(inputs.contiguous(), targets.contiguous(), strict=True):
        yield _pair(example, target)


def encoded(item: Tree) -> bytes | None:
    """Return one item as bytes: structure, dtypes and shapes, then little-endian numbers.

    Args:
        item: Tensors, arrays, images, numbers and text in nested tuples, lists and dictionaries.

    Returns:
        Bytes that are equal for equal items only; for a pair of tensors, the bytes of
        ``paired_records``. None where the item holds something else.
    """
    if isinstance(item, tuple) and len(item) == 2 and all(isinstance(p, Tensor) for p in item):
        return _pair(*item)
    parts: list[bytes] = []
    return b"".join(parts) if _encode(item, parts) else None


def _pair(one: Tensor, other: Tensor) -> bytes:
    head = f"{one.dtype}{tuple(one.shape)}{other.dtype}{tuple(other.shape)}\0"
    return head.encode() + _numbers(one) + _numbers(other)


def _numbers(tensor: Tensor) -> bytes:
    plain = tensor.detach().cpu().contiguous()
    if plain.dtype is torch.bfloat16:
        plain = plain.view(torch.int16)
    return plain.numpy().tobytes()


def _encode(item: Tree, parts: list[bytes]) -> bool:
    """Append an item's encoding, in which every part states its own length."""

    def add(kind: str, content: bytes) -> bool:
        parts.append(f"{kind}:{len(content)}\0".encode() + content)
        return True

    if isinstance(item, Tensor):
        if item.layout != torch.strided or item.is_nested or item.is_quantized:
            return False
        return add(f"tensor {item.dtype}{tuple(item.shape)}", _numbers(item))
    if isinstance(item, np.ndarray | np.generic):
        array = np.asarray(item)
        if array.dtype.hasobject:
            return False
        array = array.astype(array.dtype.newbyteorder("<"))
        return add(f"array {array.dtype.str}{array.shape}", array.tobytes())
    if item is None or isinstance(item, bool | int | float | complex):
        return add(type(item).__name__, repr(item).encode())
    if isinstance(item, str):
        return add("str", item.encode("utf-8", "surrogatepass"))
    if isinstance(item, bytes | bytearray):
        return add("bytes", bytes(item))
    if isinstance(item, Mapping):
        add("dict", str(len(item)).encode())
        ordered = sorted(item.items(), key=lambda pair: repr(pair[0]))
        return all(_encode(key, parts) and _encode(one, parts) for key, one in ordered)
    if isinstance(item, list | tuple):
        add("list" if isinstance(item, list) else "tuple", str(len(item)).encode())
        return all(_encode(one, parts) for one in item)
    if hasattr(item, "tobytes") and hasattr(item, "mode") and hasattr(item, "size"):  # an image
        return add(f"image {item.mode}{item.size}", item.tobytes())
    return False
