"""A recording in a folder: equal to the last bit, whole or refused, and nothing of what left."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import numpy as arrays_file
from safetensors.torch import save_file

from fedunlearn.errors import RecordingError
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.questions.subspace_summary import Summary
from fedunlearn.recording.basis import MemoryBasis
from fedunlearn.recording.file_basis import FileBasis
from fedunlearn.recording.recording import Group, Recording
from fedunlearn.recording.reduced import natural_damping
from fedunlearn.recording.storage import BASIS, SUMS, open_recording, save_recording

SIZE, DIMENSION = 5, 23
FILES = (BASIS, SUMS)


def summary_of(generator: np.random.Generator) -> Summary:
    half = generator.standard_normal((SIZE, SIZE))
    return Summary(
        int(generator.integers(1, 50)),
        float(generator.integers(1, 500)),
        float(generator.exponential()),
        float(generator.exponential()),
        generator.standard_normal(SIZE),
        half @ half.T,
    )


def recording_of(
    precision: torch.dtype = torch.float32, *, stored: bool = True, seed: int = 0
) -> Recording:
    generator = np.random.default_rng(seed)
    rows = np.linalg.qr(generator.standard_normal((DIMENSION, SIZE)))[0].T
    groups = {
        Group(node, label): summary_of(generator)
        for node, label in itertools.product((0, 3, 2**31), (None, -1, 7))
    }
    stays = sum(groups.values(), Summary.nothing(SIZE))
    return Recording(
        basis=MemoryBasis(torch.from_numpy(rows.copy()).to(precision)),
        share=0.1 + 0.2,
        point=generator.standard_normal(SIZE),
        weight_decay=1e-3,
        horizon=1.0 / 3.0,
        absolute=seed % 2 == 1,
        by_label=True,
        examples=stays.examples + 11,
        mass=stays.mass + 7.5,
        batch_size=None if seed % 3 == 1 else 32 + seed,
        stays=stays,
        groups=groups if stored else {},
        left=generator.standard_normal(SIZE),
        coordinates=np.array([0.0, -0.0, 5e-324, 1e308, -1.0]),
        model=generator.bytes(32),
        gone=(
            ForgetSet.of_nodes(5, 2**31),
            ForgetSet.of_samples(0.1, seed=2**63, on=[3]),
            ForgetSet.of_class(4),
        ),
    )


def exactly(value: object) -> object:
    """Return something that is equal where the value is so to the last bit."""
    if isinstance(value, (MemoryBasis, FileBasis)):
        rows = value.rows(0, value.size)
        return value.size, value.dimension, value.precision, rows.view(torch.uint8).tolist()
    if isinstance(value, (Summary, Recording)):
        return [exactly(getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    if isinstance(value, dict):
        return [(key, exactly(below)) for key, below in value.items()]
    return type(value), value


def removed(recording: Recording, node: int) -> Recording:
    forget = ForgetSet.of_nodes(node)
    leaving = recording.stored(forget)
    assert leaving is not None
    return recording.without(leaving, forget)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_what_is_opened_equals_what_was_saved(
    tmp_path: Path, precision: torch.dtype, stored: bool, verify: bool
) -> None:
    recording = recording_of(precision, stored=stored)
    save_recording(recording, tmp_path / "new" / "folder")
    opened = open_recording(tmp_path / "new" / "folder", verify=verify)
    assert isinstance(opened.basis, FileBasis)
    assert exactly(opened) == exactly(recording)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_a_step_from_the_file_equals_one_from_memory(
    tmp_path: Path, precision: torch.dtype
) -> None:
    recording = recording_of(precision)
    save_recording(recording, tmp_path)
    weights = torch.randn(DIMENSION, generator=torch.Generator().manual_seed(0))
    moved = [
        each.basis.moved(weights, after.problem().damped(natural_damping(1.0)).coordinates)
        for each in (recording, open_recording(tmp_path))
        for after in (removed(each, 3),)
    ]
    assert torch.equal(*moved)
    assert not torch.equal(moved[0], weights)


@functools.cache
def saved() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        save_recording(recording_of(), Path(folder))
        return {name: (Path(folder) / name).read_bytes() for name in FILES}


@contextmanager
def holding(content: dict[str, bytes]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        for name, of_file in content.items():
            (Path(folder) / name).write_bytes(of_file)
        yield Path(folder)


def refused(folder: Path, name: str) -> str:
    with pytest.raises(RecordingError) as caught:
        open_recording(folder)
    message = str(caught.value)
    assert str(folder / name) in message
    assert "\n" not in message
    return message


@given(data=st.data(), name=st.sampled_from(FILES), change=st.integers(1, 255))
def test_every_changed_byte_is_found(data: st.DataObject, name: str, change: int) -> None:
    content = bytearray(saved()[name])
    content[data.draw(st.integers(0, len(content) - 1))] ^= change
    with holding(saved() | {name: bytes(content)}) as folder:
        refused(folder, name)


@given(data=st.data(), name=st.sampled_from(FILES))
def test_a_cut_file_is_refused(data: st.DataObject, name: str) -> None:
    content = saved()[name]
    content = content[: data.draw(st.integers(0, len(content) - 1))]
    with holding(saved() | {name: content}) as folder, pytest.raises(RecordingError):
        open_recording(folder, verify=False)


@given(content=st.binary(max_size=200), name=st.sampled_from(FILES))
def test_anything_else_is_refused(content: bytes, name: str) -> None:
    with holding(saved() | {name: content}) as folder:
        refused(folder, name)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    save_recording(recording_of(), tmp_path)
    (tmp_path / name).unlink()
    assert "no such file" in refused(tmp_path, name)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_a_files_place_is_refused(tmp_path: Path, name: str) -> None:
    save_recording(recording_of(), tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    refused(tmp_path, name)


@pytest.mark.parametrize(
    "tensors",
    [
        {"basis": torch.zeros(SIZE, DIMENSION, dtype=torch.float64)},
        {"basis": torch.zeros(SIZE, DIMENSION, dtype=torch.int32)},
        {"basis": torch.zeros(SIZE, DIMENSION + 1)},
        {"basis": torch.zeros(SIZE - 1, DIMENSION)},
        {"basis": torch.zeros(SIZE * DIMENSION)},
        {"another": torch.zeros(SIZE, DIMENSION)},
        {"basis": torch.zeros(SIZE, DIMENSION), "another": torch.zeros(1)},
    ],
)
def test_another_basis_is_refused_without_reading_it(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    save_recording(recording_of(), tmp_path)
    save_file(tensors, tmp_path / BASIS)
    with pytest.raises(RecordingError, match=BASIS):
        open_recording(tmp_path, verify=False)


def rewritten(
    document: Callable[[dict[str, object]], object] = lambda document: None,
    tensors: Callable[[dict[str, np.ndarray]], object] = lambda tensors: None,
) -> bytes:
    """Return sums whose digest is right and whose content is not."""
    content = saved()[SUMS]
    length = int.from_bytes(content[:8], "little")
    told = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["document"])
    arrays = arrays_file.load(content)
    document(told)
    tensors(arrays)
    zeros = "0" * 64
    content = arrays_file.save(arrays, {"document": json.dumps(told), "sha256": zeros})
    digest = hashlib.sha256(content).hexdigest()
    return content.replace(f'"sha256":"{zeros}"'.encode(), f'"sha256":"{digest}"'.encode(), 1)


def test_sums_are_rewritten_as_they_were() -> None:
    with holding(saved() | {SUMS: rewritten()}) as folder:
        assert exactly(open_recording(folder)) == exactly(recording_of())


@pytest.mark.parametrize(
    "document",
    [
        lambda document: document.pop("horizon"),
        lambda document: document.update(more=1),
        lambda document: document.update(share="0.5"),
        lambda document: document.update(groups=[]),
        lambda document: document["stays"].pop("square"),
        lambda document: document.update(model="no hex"),
        lambda document: document.update(gone=["0"]),
        lambda document: document.update(gone=["ff"]),
        lambda document: document.update(gone=[""]),
    ],
)
def test_a_malformed_document_is_refused(document: Callable[[dict[str, object]], object]) -> None:
    with holding(saved() | {SUMS: rewritten(document)}) as folder:
        refused(folder, SUMS)


@pytest.mark.parametrize(
    "tensors",
    [
        lambda arrays: arrays.pop("left"),
        lambda arrays: arrays.update(more=np.zeros(1)),
        lambda arrays: arrays.update(left=np.zeros(SIZE + 1)),
        lambda arrays: arrays.update(left=np.zeros(SIZE, np.float32)),
        lambda arrays: arrays.update(left=np.zeros(SIZE, np.int64)),
    ],
)
def test_malformed_tensors_are_refused(
    tensors: Callable[[dict[str, np.ndarray]], object],
) -> None:
    with holding(saved() | {SUMS: rewritten(tensors=tensors)}) as folder:
        refused(folder, SUMS)


@pytest.mark.parametrize(
    "metadata", [None, {}, {"document": "[", "sha256": ""}, {"document": "{}", "sha256": "0" * 64}]
)
def test_another_safetensors_file_is_refused(metadata: dict[str, str] | None) -> None:
    content = arrays_file.save({"left": np.zeros(SIZE)}, metadata)
    with holding(saved() | {SUMS: content}) as folder:
        refused(folder, SUMS)


def test_bfloat16_sums_are_refused() -> None:
    with holding(saved()) as folder:
        save_file({"left": torch.zeros(SIZE, dtype=torch.bfloat16)}, folder / SUMS)
        refused(folder, SUMS)


def test_another_version_is_named() -> None:
    content = rewritten(lambda document: document.update(version=3))
    with holding(saved() | {SUMS: content}) as folder:
        assert "version 3" in refused(folder, SUMS)


def test_the_sums_of_another_basis_are_refused(tmp_path: Path) -> None:
    for seed in range(2):
        save_recording(recording_of(seed=seed), tmp_path / str(seed))
    shutil.copy(tmp_path / "1" / BASIS, tmp_path / "0" / BASIS)
    refused(tmp_path / "0", BASIS)


def test_a_removal_writes_the_sums_alone(tmp_path: Path) -> None:
    save_recording(recording_of(), tmp_path)
    before = (tmp_path / BASIS).stat()
    after = removed(open_recording(tmp_path), 3)
    save_recording(after, tmp_path)
    assert exactly(open_recording(tmp_path)) == exactly(after)
    save_recording(recording_of(), tmp_path)
    assert exactly(open_recording(tmp_path)) == exactly(recording_of())
    assert (tmp_path / BASIS).stat() == before


def test_another_recording_takes_the_place_of_the_first(tmp_path: Path) -> None:
    for seed in range(2):
        save_recording(recording_of(seed=seed), tmp_path / "one")
    save_recording(open_recording(tmp_path / "one"), tmp_path / "other")
    assert exactly(open_recording(tmp_path / "other")) == exactly(recording_of(seed=1))


@pytest.mark.parametrize("when", ["fsync", "replace"])
def test_a_killed_removal_leaves_the_old_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    save_recording(recording_of(), tmp_path)
    opened = open_recording(tmp_path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, when, killed)
        save_recording(removed(opened, 3), tmp_path)
    assert exactly(open_recording(tmp_path)) == exactly(recording_of())
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)


def test_a_killed_first_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        save_recording(recording_of(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_sums_of_one_basis_never_lie_beside_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_recording(recording_of(), tmp_path)
    replacing = os.replace

    def killed_after_the_basis(source: Path, target: Path) -> None:
        if target.name == SUMS:
            raise KeyboardInterrupt
        replacing(source, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "replace", killed_after_the_basis)
        save_recording(recording_of(seed=1), tmp_path)
    with pytest.raises(RecordingError, match=SUMS):
        open_recording(tmp_path, verify=False)


def test_nothing_of_a_removed_summary_is_in_the_folder(tmp_path: Path) -> None:
    recording = recording_of()
    save_recording(recording, tmp_path)
    (tmp_path / f"{SUMS}.part").write_bytes((tmp_path / SUMS).read_bytes())  # as of a crash
    for node in (0, 3):
        save_recording(removed(open_recording(tmp_path), node), tmp_path)
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*"))
    for group, summary in recording.groups.items():
        packed = np.concatenate([summary.gradient, summary.curvature[np.triu_indices(SIZE)]])
        told = [packed.tobytes(), *(value.tobytes() for value in packed)]
        told += [repr(summary.square).encode(), repr(summary.outside).encode()]
        assert {part in content for part in told} == {group.node not in (0, 3)}
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)


def test_a_basis_that_goes_away_is_named(tmp_path: Path) -> None:
    save_recording(recording_of(), tmp_path)
    opened = open_recording(tmp_path)
    (tmp_path / BASIS).unlink()
    with pytest.raises(RecordingError, match="no such file"):
        opened.basis.rows(0, 1)
    (tmp_path / BASIS).write_bytes(b"")
    with pytest.raises(RecordingError, match="changed since it was opened"):
        opened.basis.rows(0, 1)
