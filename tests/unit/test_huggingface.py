"""Data sets of the Hugging Face hub: read from local folders here, without a network."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedunlearn.data.sources import Split, load_split, resolve_path
from fedunlearn.errors import ScenarioError
from fedunlearn.scenario.data import DataSettings
from fedunlearn.scenario.loading import parse_scenario

datasets = pytest.importorskip("datasets")
images = pytest.importorskip("PIL.Image")

CLASSES = ["ant", "bee", "cow"]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail whatever would leave this machine."""

    def refuse(*_: object) -> None:
        raise OSError("the network was tried")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def picture(label: int, *, mode: str = "RGB", size: tuple[int, int] = (6, 5)) -> Any:
    """Return an image whose first channel (or grey) is 40 times the label, and 250 in a corner."""
    image = images.new(mode, size, 40 * label if mode == "L" else (40 * label, 7, 9))
    image.putpixel((size[0] - 1, 0), 250 if mode == "L" else (250, 0, 0))
    return image


def write(folder: Path, split: str, labels: list[int], **kept: Any) -> None:
    """Write a parquet of images as the hub holds them."""
    columns = {"img": [picture(label, **kept) for label in labels], "kind": labels}
    features = {"img": datasets.Image(), "kind": datasets.ClassLabel(names=CLASSES)}
    folder.mkdir(exist_ok=True)
    made = datasets.Dataset.from_dict(columns, datasets.Features(features))
    made.to_parquet(folder / f"{split}-00000-of-00001.parquet")


def load(folder: Path, **keys: Any) -> Split:
    base = {"name": "huggingface", "path": str(folder), "nodes": 2, "partition": "iid"}
    return load_split(DataSettings.model_validate(base | keys))


IMAGES = {"input": "img", "label": "kind"}


def test_images_and_classes_keep_the_splits_of_the_data_set(tmp_path: Path) -> None:
    labels = [0, 2, 0, 2, 2, 0]
    write(tmp_path / "set", "train", labels)
    write(tmp_path / "set", "test", [1, 2])
    split = load(tmp_path / "set", **IMAGES)
    assert split.inputs.shape == (6, 3, 5, 6)
    assert split.inputs.dtype == torch.float32
    assert split.targets.tolist() == labels  # numbers of the data set, though 1 never trains
    assert split.test_targets.tolist() == [1, 2]
    assert split.classes == 3
    np.testing.assert_allclose(split.inputs[:, 0, 2, 2], 40.0 * np.array(labels) / 255.0)
    np.testing.assert_allclose(split.test_inputs[:, 0, 0, 5], 250.0 / 255.0)
    assert sorted(np.concatenate(split.nodes).tolist()) == list(range(6))


def test_a_part_is_held_out_where_there_is_no_test_split(tmp_path: Path) -> None:
    write(tmp_path / "set", "train", [n % 3 for n in range(40)], mode="L", size=(4, 4))
    split = load(tmp_path / "set", **IMAGES)
    assert (len(split.inputs), len(split.test_inputs)) == (30, 10)
    assert split.inputs.shape[1:] == (1, 4, 4)
    for inputs, targets in (
        (split.inputs, split.targets),
        (split.test_inputs, split.test_targets),
    ):
        np.testing.assert_allclose(inputs[:, 0, 2, 2], 40.0 * targets / 255.0)
    few = load(tmp_path / "set", limit=7, **IMAGES)
    assert (len(few.inputs), len(few.test_inputs)) == (7, 10)
    other = load(tmp_path / "set", seed=1, **IMAGES)
    assert not torch.equal(other.targets, split.targets)


def test_no_copy_of_local_data_stays_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cache, scratch = tmp_path / "cache", tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    write(tmp_path / "set", "train", [0, 1, 2, 0])
    capfd.readouterr()
    load(tmp_path / "set", **IMAGES)
    assert not cache.exists()
    assert list(scratch.iterdir()) == []
    assert capfd.readouterr() == ("", "")  # no progress in a pipe
    assert not datasets.are_progress_bars_disabled()


def csv_folder(folder: Path) -> Path:
    folder.mkdir()
    lines = [f"{row % 4},writer {row % 3},Goals and cups {row},{row}" for row in range(48)]
    (folder / "train.csv").write_text("\n".join(["label,who,title,body", *lines]) + "\n")
    return folder


def test_text_is_hashed_and_a_column_may_name_the_nodes(tmp_path: Path) -> None:
    folder = csv_folder(tmp_path / "set")
    keys = {"text": ["title", "body"], "label": "label > 1", "partition": "natural", "by": "who"}
    split = load(folder, nodes=None, **keys)
    assert [len(node) for node in split.nodes] == [12, 12, 12]
    assert len(split.test_inputs) == 12
    assert split.inputs.dtype == torch.int64
    assert split.classes == 2
    words = split.inputs[:, :2].unique(dim=0)
    assert len(words) == 1 and words.all()  # goals, and: in every row


def test_the_same_data_by_csv_and_by_folder_is_the_same(tmp_path: Path) -> None:
    folder = csv_folder(tmp_path / "set")
    keys = {"text": ["title", "body"], "label": "label"}
    one, other = load(folder, **keys), load(folder / "train.csv", name="csv", **keys)
    for field in ("inputs", "targets", "test_inputs", "test_targets"):
        assert torch.equal(getattr(one, field), getattr(other, field))


def broken(folder: Path) -> None:
    folder.mkdir()
    (folder / "train.parquet").write_bytes(b"PAR1 secret")


def without_train(folder: Path) -> None:
    write(folder, "validation", [0, 1])
    write(folder, "test", [0, 1])


def of_two_sizes(folder: Path) -> None:
    folder.mkdir()
    pictures = [picture(0), picture(0, size=(4, 4))] * 4
    features = datasets.Features({"img": datasets.Image(), "kind": datasets.Value("string")})
    made = datasets.Dataset.from_dict({"img": pictures, "kind": ["secret", "b"] * 4}, features)
    made.to_parquet(folder / "train.parquet")


def unlabelled(folder: Path) -> None:
    write(folder, "train", [0, 1, 2])
    write(folder, "test", [-1, -1])


MISTAKES: dict[str, tuple[Callable[[Path], object], dict[str, Any], str]] = {
    "no data": (Path.mkdir, IMAGES, "data.path: {folder} cannot be loaded"),
    "broken": (broken, IMAGES, "give a local folder of parquet or csv files, or"),
    "no train": (without_train, IMAGES, "has no split 'train'; its splits are 'validation'"),
    "sizes": (of_two_sizes, IMAGES, "data.input: column 'img' holds images of different sizes"),
    "unlabelled": (unlabelled, IMAGES, "data.label: column 'kind' leaves rows without a label"),
    "no images": (csv_folder, {"input": "title", "label": "label"}, "'title' holds no images"),
    "input": (csv_folder, {"input": "titel", "label": "label"}, "data.input: no column 'titel'"),
    "label": (csv_folder, {"text": ["title"], "label": "labl"}, "(did you mean 'label'?)"),
    "text": (csv_folder, {"text": ["body", "x"], "label": "label"}, "data.text: no column 'x'"),
    "by": (csv_folder, {"text": ["body"], "label": "label", "by": "x"}, "data.by: no column 'x'"),
    "own label": (csv_folder, {"text": ["label"], "label": "label"}, "is the label's or the node"),
    "image label": (of_two_sizes, {"text": ["kind"], "label": "img"}, "'img' holds Image; give a"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_line_without_data(name: str, tmp_path: Path) -> None:
    make, keys, says = MISTAKES[name]
    folder = tmp_path / "set"
    make(folder)
    with pytest.raises(ScenarioError) as caught:
        load(folder, **keys)
    message = str(caught.value)
    assert says.format(folder=folder) in message
    assert message.startswith("data.")
    assert "\n" not in message
    assert "secret" not in message


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str, **_: object) -> None:
        assert path == "someone/something"
        raise ConnectionError("Couldn't reach 'someone/something' on the Hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(ScenarioError) as caught:
        load(Path("someone/something"), **IMAGES)
    assert "(ConnectionError: Couldn't reach 'someone/something' on the Hub)" in str(caught.value)


def test_without_the_package_one_line_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ScenarioError) as caught:
        load(Path("a/b"), **IMAGES)
    assert "pip install 'fedunlearn[huggingface]'" in str(caught.value)


def test_names_on_the_hub_stay_names_and_folders_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEDUNLEARN_DATA", raising=False)

    def resolved(path: str, **keys: object) -> Path | None:
        base = {"name": "huggingface", "input": "i", "label": "l", "path": path}
        return resolve_path(DataSettings.model_validate(base | keys), tmp_path).path

    assert resolved("ylecun/mnist") == Path("ylecun/mnist")
    assert resolved("mnist") == Path("mnist")
    (tmp_path / "ylecun" / "mnist").mkdir(parents=True)
    assert resolved("ylecun/mnist") == tmp_path / "ylecun" / "mnist"
    for gone in (str(tmp_path / "gone"), "./../gone", "a/b/c", "../gone"):
        with pytest.raises(ScenarioError, match=r"^data\.path: .* not found"):
            resolved(gone)
    with pytest.raises(ScenarioError, match="not found"):
        resolved("gone/set", name="idx", input=None, label=None)
    digits = DataSettings()
    assert resolve_path(digits, tmp_path) is digits


HUB = {"name": "huggingface", "path": "a/b", "label": "l"}


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"name": "huggingface"}, "data.path: is required for name = 'huggingface'"),
        ({"name": "huggingface", "path": "a/b"}, "data.label: is required for name = 'hugg"),
        (HUB, "data.input: give name = 'huggingface' either input, a column of images, or text"),
        (HUB | {"input": "i", "text": ["t"]}, "data.input: give name = 'huggingface' either"),
        (HUB | {"input": "i", "zero-is-missing": ["x"]}, "data.zero-is-missing: is for name = 'c"),
        ({"input": "i"}, "data.input: is for name = 'huggingface', not 'digits'; leave it out"),
    ],
)
def test_keys_that_do_not_fit_together(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse_scenario({"data": keys})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
