"""Images and labels in the idx format of MNIST."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedunlearn.data.scenario_data import Examples, ScenarioData
from fedunlearn.errors import ScenarioError
from fedunlearn.scenario.data import DataSettings

UINT8 = 0x08
GZIP = b"\x1f\x8b"


def read_images(settings: DataSettings) -> ScenarioData:
    """Read the images of a scenario, whose classes are named by their numbers."""
    assert settings.path is not None  # the settings require it
    train, test = read_idx(settings.path)
    return ScenarioData(train, test)


def read_idx(folder: Path) -> tuple[Examples, Examples]:
    """Read a folder in MNIST's layout.

    Args:
        folder: Holds ``train-images-idx3-ubyte`` and so on, with or without ``.gz``; idx4 files
            hold colour images (NHWC).

    Returns:
        Training and test examples: images (n, channels, height, width), float32 in [0, 1], and
        labels (n,), int64.

    Raises:
        ScenarioError: A file is missing, damaged or of another form.
    """
    train, test = _pair(folder, "train"), _pair(folder, "t10k", "test")
    if train[0].shape[1:] != test[0].shape[1:]:
        raise ScenarioError(
            f"data.path: {folder} holds training images of {_size(train[0])} and test images of "
            f"{_size(test[0])}; make all alike"
        )
    return train, test


def _size(images: Tensor) -> str:
    return " x ".join(map(str, images.shape[1:]))


def _pair(folder: Path, *prefixes: str) -> Examples:
    images, path = _array(folder, prefixes, {"images-idx3-ubyte": 3, "images-idx4-ubyte": 4})
    labels, _ = _array(folder, prefixes, {"labels-idx1-ubyte": 1})
    if len(images) != len(labels) or not images.size:
        raise ScenarioError(
            f"data.path: {path} holds {len(images)} images of {math.prod(images.shape[1:])} "
            f"values for {len(labels)} labels; as many labels as images are needed, one at least"
        )
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    inputs = torch.tensor(np.ascontiguousarray(images, dtype=np.float32) / 255.0)
    return inputs, torch.from_numpy(labels.astype(np.int64))


def _array(
    folder: Path, prefixes: tuple[str, ...], forms: dict[str, int]
) -> tuple[NDArray[np.uint8], Path]:
    """Read the first of some files that is there; each kind has a number of dimensions."""
    for prefix in prefixes:
        for suffix, dimensions in forms.items():
            for ending in (".gz", ""):
                path = folder / f"{prefix}-{suffix}{ending}"
                if path.is_file():
                    return _parsed(_unpacked(path), path, dimensions), path
    first = f"{prefixes[0]}-{next(iter(forms))}.gz"
    raise ScenarioError(f"data.path: {folder} has no file {first}; use a folder in MNIST's layout")


def _unpacked(path: Path) -> bytes:
    """Read a file, and unpack what is packed, whatever its name says."""
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data.startswith(GZIP) else data
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise ScenarioError(
            f"data.path: {path} cannot be unpacked; give a whole gzip file, or a plain one"
        ) from None
    except OSError as error:
        raise ScenarioError(
            f"data.path: {path} cannot be read: {error.strerror}; make it readable"
        ) from None


def _parsed(data: bytes, path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read the idx format: 0, 0, type, number of dimensions, sizes as big-endian uint32, values."""
    if len(data) < 4 or data[0] or data[1] or data[2] != UINT8:
        raise ScenarioError(f"data.path: {path} is not an idx file of unsigned bytes")
    if data[3] != dimensions:
        raise ScenarioError(
            f"data.path: {path} holds {data[3]} dimensions; a file of this name has {dimensions}"
        )
    head = 4 + 4 * dimensions
    if len(data) < head:
        raise ScenarioError(f"data.path: {path} ends before its sizes; give the whole file")
    shape = tuple(int(size) for size in np.frombuffer(data[4:head], dtype=">u4"))
    if len(data) - head != math.prod(shape):
        raise ScenarioError(
            f"data.path: {path} holds {len(data) - head} values where its first bytes say "
            f"{math.prod(shape)}; give the whole file"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=head).reshape(shape)
