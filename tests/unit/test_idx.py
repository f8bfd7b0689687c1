"""The idx format: read whatever its packing, refused where it is damaged, in one line."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedunlearn.data.idx import read_idx
from fedunlearn.errors import ScenarioError


def idx(array: np.ndarray, *, dimensions: int | None = None) -> bytes:
    count = array.ndim if dimensions is None else dimensions
    head = bytes([0, 0, 8, count])
    sizes = array.shape if dimensions is None else (1,) * dimensions
    return head + struct.pack(f">{count}I", *sizes) + array.astype(np.uint8).tobytes()


IMAGES = np.arange(6 * 20).reshape(6, 4, 5)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def write(folder: Path, **changed: bytes) -> None:
    files = {
        "train-images-idx3-ubyte.gz": gzip.compress(idx(IMAGES)),
        "train-labels-idx1-ubyte.gz": gzip.compress(idx(LABELS)),
        "t10k-images-idx3-ubyte.gz": gzip.compress(idx(IMAGES[:3])),
        "t10k-labels-idx1-ubyte.gz": gzip.compress(idx(LABELS[:3])),
    }
    short = {"images": 0, "labels": 1, "test_images": 2, "test_labels": 3}
    names = list(files)
    for key, content in changed.items():
        files[names[short[key]]] = content
    for name, content in files.items():
        (folder / name).write_bytes(content)


def test_packed_and_plain_files_are_read_whatever_their_names_say(tmp_path: Path) -> None:
    write(tmp_path, images=idx(IMAGES))  # plain, though its name ends in .gz
    packed = tmp_path / "t10k-labels-idx1-ubyte.gz"
    packed.rename(tmp_path / "t10k-labels-idx1-ubyte")
    (images, labels), (test_images, test_labels) = read_idx(tmp_path)
    assert images.shape == (6, 1, 4, 5) and test_images.shape == (3, 1, 4, 5)
    np.testing.assert_allclose(images[:, 0].numpy() * 255, IMAGES, atol=1e-4)
    assert labels.tolist() == LABELS.tolist() and test_labels.tolist() == [0, 1, 2]


WHOLE = gzip.compress(idx(IMAGES))
DAMAGED: dict[str, tuple[dict[str, bytes], str]] = {
    "truncated gzip": ({"images": WHOLE[:-9]}, "cannot be unpacked; give a whole gzip file"),
    "half a gzip": ({"test_labels": WHOLE[: len(WHOLE) // 2]}, "cannot be unpacked"),
    "changed gzip": ({"images": WHOLE[:20] + b"\xff" * 40 + WHOLE[60:]}, "cannot be unpacked"),
    "truncated": ({"images": idx(IMAGES)[:-7]}, "holds 113 values where its first bytes say 120"),
    "too long": ({"images": idx(IMAGES) + b"1"}, "holds 121 values where its first bytes say 120"),
    "no sizes": ({"images": idx(IMAGES)[:9]}, "ends before its sizes; give the whole file"),
    "empty": ({"images": b""}, "is not an idx file of unsigned bytes"),
    "other type": ({"labels": b"\0\0\x0d\1\0\0\0\0"}, "is not an idx file of unsigned bytes"),
    "70 dimensions": (
        {"images": idx(np.zeros(1), dimensions=70)},
        "holds 70 dimensions; a file of this name has 3",
    ),
    "labels of two": ({"labels": idx(IMAGES[0])}, "holds 2 dimensions; a file of this name has 1"),
    "fewer labels": ({"labels": idx(LABELS[:5])}, "6 images of 20 values for 5 labels"),
    "no images": (
        {"images": idx(IMAGES[:0]), "labels": idx(LABELS[:0])},
        "holds 0 images of 20 values for 0 labels",
    ),
    "other size in the test": (
        {"test_images": gzip.compress(idx(np.zeros((3, 5, 5))))},
        "training images of 1 x 4 x 5 and test images of 1 x 5 x 5",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_gets_one_line(name: str, tmp_path: Path) -> None:
    changed, says = DAMAGED[name]
    write(tmp_path, **changed)
    with pytest.raises(ScenarioError) as caught:
        read_idx(tmp_path)
    assert says in str(caught.value)
    assert str(caught.value).startswith("data.path: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "train-images-idx3-ubyte.gz").unlink(),
        lambda folder: [path.unlink() for path in folder.iterdir()],
    ],
    ids=["one file", "all files"],
)
def test_a_missing_file_is_named(spoil: Callable[[Path], object], tmp_path: Path) -> None:
    write(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ScenarioError, match=r"has no file train-images-idx3-ubyte\.gz; use"):
        read_idx(tmp_path)
