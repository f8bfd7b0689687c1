"""Data sets of the Hugging Face hub, or in a local folder of its forms, as tensors."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedunlearn.data.class_labels import classes, label_column
from fedunlearn.data.draw import Indices
from fedunlearn.data.scenario_data import ScenarioData
from fedunlearn.data.table import Table, listed
from fedunlearn.data.tabular import held_out, limited, natural_groups, texts
from fedunlearn.errors import ScenarioError
from fedunlearn.names import Names
from fedunlearn.scenario.data import DataSettings

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

GREY_MODES = {"1", "L"}
COLOUR_MODES = {"P", "RGB", "RGBA", "LA", "CMYK", "YCbCr"}


def read_dataset(settings: DataSettings) -> ScenarioData:
    """Read the splits ``train`` and ``test`` of a data set; without the latter, a part is held out.

    Args:
        settings: Settings of a data set on the hub or in a folder.

    Returns:
        Its examples, with the nodes of a natural partition.

    Raises:
        ScenarioError: The data set, a column or a key cannot be used.
    """
    assert settings.path is not None and settings.label is not None  # the settings require them
    whole, training = _load(settings.path)
    header = Table(dict.fromkeys(whole.column_names, ()), 0)
    label = label_column(settings.label, header)
    named = [("input", settings.input), ("by", settings.by), *(("text", t) for t in settings.text)]
    for key, name in named:
        if name is not None:
            header.column(name, key)
    numbers, labels = _targets(whole, label, settings)
    targets = torch.from_numpy(numbers)
    groups, nodes = _groups(whole.select(range(training)), label, settings)
    if training < len(whole):
        train, test = np.arange(training), np.arange(training, len(whole))
    else:
        train, test = held_out(groups, settings)
    train = limited(train, groups, settings)
    rows = np.concatenate([train, test])
    chosen = whole.select(rows)
    if settings.input is not None:
        inputs = _images(chosen, settings.input)
    else:
        inputs = texts(_table(chosen, settings.text), label, settings)
    count = len(train)
    return ScenarioData(
        (inputs[:count], targets[train]),
        (inputs[count:], targets[test]),
        labels,
        groups[train] if nodes else None,
        nodes,
    )


def _load(path: Path) -> tuple[Dataset, int]:
    """Return the training examples with the test examples after them, and how many train."""
    try:
        import datasets
    except ImportError:
        raise ScenarioError(
            "data.name: 'huggingface' needs the package datasets; install it by "
            "pip install 'fedunlearn[huggingface]'"
        ) from None
    local = path.is_absolute() or path.exists()
    if local and not path.is_dir():
        raise ScenarioError(f"data.path: {path} is no folder; give the folder that holds the files")
    # Of local data no copy is to stay behind in a cache.
    with TemporaryDirectory() as folder, _progress_on_terminals_only():
        own = {"cache_dir": folder, "keep_in_memory": True} if local else {}
        try:
            splits = datasets.load_dataset(path.as_posix(), **own)
        except Exception as error:  # as many kinds as there are formats and ways to fail
            why = type(error).__name__  # of local data the message itself may quote a cell
            if not local:
                why += f": {str(error).strip().partition(chr(10))[0]}"
            raise ScenarioError(
                f"data.path: {path} cannot be loaded ({why}); give a local folder of parquet or "
                "csv files, or a data set's name on the Hugging Face hub"
            ) from None
    names = list(splits)
    train = "train" if len(names) > 1 else names[0]
    if train not in splits:
        raise ScenarioError(
            f"data.path: {path} has no split 'train'; its splits are {listed(names)}"
        )
    parts = [splits[train], *([splits["test"]] if "test" in splits and train != "test" else [])]
    if any(part.column_names != parts[0].column_names for part in parts):
        raise ScenarioError(f"data.path: {path} has other columns in 'test' than in 'train'")
    return datasets.concatenate_datasets(parts), len(parts[0])


@contextmanager
def _progress_on_terminals_only() -> Iterator[None]:
    import datasets
    from huggingface_hub import utils as hub

    bars = (datasets, hub)
    shown = [bar for bar in bars if not bar.are_progress_bars_disabled()]
    if sys.stderr.isatty():
        shown = []
    for bar in shown:
        bar.disable_progress_bars()
    try:
        yield
    finally:
        for bar in shown:
            bar.enable_progress_bars()


def _targets(
    whole: Dataset, column: str, settings: DataSettings
) -> tuple[NDArray[np.int64], Names]:
    """Return class numbers and names: those of the data set where it numbers its classes itself."""
    import datasets

    assert settings.label is not None  # the settings require it
    feature = whole.features[column]
    if isinstance(feature, datasets.ClassLabel) and column == settings.label:
        numbers = np.array([-1 if n is None else n for n in whole[column]], dtype=np.int64)
        if numbers.min() < 0:
            raise ScenarioError(
                f"data.label: column {column!r} leaves rows without a label; use another column"
            )
        return numbers, Names.coded("class", feature.names)
    if not isinstance(feature, (datasets.ClassLabel, datasets.Value)):
        raise ScenarioError(
            f"data.label: column {column!r} holds {type(feature).__name__}; give a column of "
            "classes"
        )
    table = _table(whole, [column]).with_missing(settings.missing)
    numbers, names = classes(settings.label, table, words=column in settings.words)
    return numbers, Names("class", names)


def _groups(training: Dataset, label: str, settings: DataSettings) -> tuple[Indices, Names | None]:
    columns = [] if settings.by is None else [settings.by]
    table = _table(training, columns).with_missing(settings.missing)
    return natural_groups(table, label, settings)


def _table(dataset: Dataset, columns: list[str] | tuple[str, ...]) -> Table:
    """Return columns as a csv would hold them."""
    cells = {
        name: ["" if value is None else str(value).strip() for value in dataset[name]]
        for name in columns
    }
    return Table(cells, len(dataset))


def _images(dataset: Dataset, column: str) -> Tensor:
    """Return a column of images as (n, channels, height, width) in [0, 1]."""
    import datasets

    if not isinstance(dataset.features[column], datasets.Image):
        raise ScenarioError(
            f"data.input: column {column!r} holds no images; give one that does, or list columns "
            "of text in data.text"
        )
    try:
        images: list[Image | None] = list(dataset[column])
    except OSError:
        raise ScenarioError(f"data.input: column {column!r} holds broken images") from None
    kept = [image for image in images if image is not None]
    if len(kept) < len(images):
        raise ScenarioError(f"data.input: column {column!r} has empty cells; drop their rows")
    modes = {image.mode for image in kept}
    if len({image.size for image in kept}) > 1 or not modes <= GREY_MODES | COLOUR_MODES:
        raise ScenarioError(
            f"data.input: column {column!r} holds images of different sizes, or of more than 8 "
            "bits; make all alike"
        )
    mode = "L" if modes <= GREY_MODES else "RGB"
    pixels = np.stack([np.asarray(image.convert(mode)) for image in kept])
    pixels = pixels[:, None] if mode == "L" else pixels.transpose(0, 3, 1, 2)
    return torch.tensor(np.ascontiguousarray(pixels, dtype=np.float32) / 255.0)
