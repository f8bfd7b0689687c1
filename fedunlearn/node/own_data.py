"""Data as users hold them: loaders, datasets and tensors, as examples that are read by batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from fedunlearn.errors import TaskError
from fedunlearn.parameters import seeded
from fedunlearn.risk.dataset_examples import DatasetExamples
from fedunlearn.risk.examples import Examples, TensorExamples

TAKES = (
    "return a DataLoader, a dataset with __len__ and __getitem__, or inputs and targets as two "
    "tensors; or two of these, for training and held out"
)
SUBSET = (
    "give the loader torch.utils.data.Subset(dataset, indices) instead, so that an example's place "
    "in the data names it"
)


@dataclass(frozen=True)
class OwnData:
    """What a node holds.

    Attributes:
        train: What it trains on.
        held_out: What it evaluates on; None where there is nothing.
        batch_size: Batch size of the loader; None where there is no loader.
    """

    train: Examples
    held_out: Examples | None = None
    batch_size: int | None = None


def own_data(found: object) -> OwnData:
    """Take what a user's data function returns.

    Args:
        found: A ``DataLoader``, a map-style dataset of torch or of HuggingFace, a
            ``TensorDataset``, or inputs and targets as two tensors or arrays; or a pair of these,
            for training and held out, whose second may be None.

    Returns:
        The examples. Order and shuffling of a loader do not count: the index in its dataset does.

    Raises:
        TaskError: The data are of another type, or a loader whose examples have no fixed order.
        NotDeterministicError: Items differ between two reads under one seed.
    """
    if isinstance(found, Mapping):
        found = _of_splits(found)
    if isinstance(found, tuple | list) and not _is_pair_of_arrays(found):
        if isinstance(found, tuple) and len(found) != 2:
            raise TaskError(f"data: a tuple of {len(found)} is returned; {TAKES}")
        if len(found) == 2 and all(_is_examples(one) or one is None for one in found):
            train, batch_size = _taken(found[0])
            held_out = None if found[1] is None else _taken(found[1])[0]
            return OwnData(train, held_out, batch_size)
    train, batch_size = _taken(found)
    return OwnData(train, None, batch_size)


def _of_splits(found: Mapping[object, object]) -> object:
    """Return the training and the held-out part of a dictionary of datasets."""
    others = [name for name in ("test", "validation", "valid") if name in found]
    if "train" not in found or not _is_examples(found["train"]):
        raise TaskError(f"data: a dictionary without datasets under 'train' is returned; {TAKES}")
    return (found["train"], found[others[0]] if others else None)


def _is_array(value: object) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _is_pair_of_arrays(value: object) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_array, value))


def _is_examples(value: object) -> bool:
    """Return whether a value may be a whole set of examples, rather than one example."""
    if _is_pair_of_arrays(value) or isinstance(value, Examples | DataLoader | IterableDataset):
        return True
    plain = isinstance(value, Tensor | np.ndarray | tuple | Mapping | str | bytes)
    return not plain and hasattr(value, "__getitem__")


def _is_plain(dataset: object) -> TypeGuard[TensorDataset]:
    return type(dataset) is TensorDataset and len(dataset.tensors) == 2


def _taken(found: object) -> tuple[Examples, int | None]:
    if isinstance(found, Examples):
        return found, None
    if isinstance(found, DataLoader):
        return _of_loader(found)
    if isinstance(found, tuple | list) and _is_pair_of_arrays(found):
        return TensorExamples(*(_tensor(*one) for one in zip(_PAIR, found, strict=True))), None
    if _is_plain(found):
        return TensorExamples(*found.tensors), None
    _require_places(found, type(found).__name__)
    unnamed = isinstance(found, Tensor | np.ndarray | tuple | str | bytes | Mapping)
    if unnamed or not (hasattr(found, "__len__") and hasattr(found, "__getitem__")):
        raise TaskError(f"data: {type(found).__name__} is returned; {TAKES}")
    examples = DatasetExamples(found)
    examples.require_fixed()
    return examples, None


_PAIR = ("inputs", "targets")


def _tensor(name: str, values: object) -> Tensor:
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "biuf":
            raise TaskError(
                f"data: {name} are an array of {values.dtype}, which torch does not have; "
                "return numbers"
            )
        values = torch.from_numpy(np.ascontiguousarray(values))
    assert isinstance(values, Tensor)
    if values.ndim == 0:
        raise TaskError(f"data: {name} are one number; return one row an example, (n, ...)")
    if values.layout != torch.strided or values.is_nested or values.is_quantized:
        raise TaskError(f"data: {name} are sparse, nested or quantised; return to_dense() of them")
    return values.detach()


def _require_places(dataset: object, what: str) -> None:
    if isinstance(dataset, IterableDataset) or (
        hasattr(dataset, "__iter__") and not hasattr(dataset, "__getitem__")
    ):
        raise TaskError(
            f"data: {what} is iterated over, so that its examples have no places by which they "
            "can be removed; return a map-style dataset with __len__ and __getitem__, of a part of "
            "it torch.utils.data.Subset(dataset, indices)"
        )


def _of_loader(loader: DataLoader[object]) -> tuple[Examples, int | None]:
    dataset = loader.dataset
    _require_places(dataset, f"the DataLoader's {type(dataset).__name__}")
    sampler: object = loader.batch_sampler
    if sampler is None:
        raise TaskError(
            "data: the DataLoader has batch_size=None, so that an item may be a batch; give it a "
            "batch_size, and items of one example"
        )
    count = len(dataset)  # type: ignore[arg-type]
    if type(sampler) is BatchSampler:
        picked = _picked(sampler.sampler, count)
        batch_size = sampler.batch_size
    else:
        with seeded(0):
            batches = [list(batch) for batch in loader.batch_sampler]  # type: ignore[union-attr]
        picked = len({place for batch in batches for place in batch})
        batch_size = max((len(batch) for batch in batches), default=1)
    if picked != count:
        raise TaskError(
            f"data: the DataLoader's sampler picks {picked} of the {count} examples of its "
            f"dataset; {SUBSET}"
        )
    if loader.collate_fn is default_collate and _is_plain(dataset):
        return TensorExamples(*dataset.tensors), batch_size
    examples = DatasetExamples(dataset, loader.collate_fn)  # type: ignore[arg-type]
    examples.require_fixed()
    return examples, batch_size


def _picked(sampler: Iterable[int], count: int) -> int:
    """Return how many of a dataset's examples a sampler may pick."""
    if isinstance(sampler, SequentialSampler):
        return count
    if isinstance(sampler, RandomSampler):
        return count if sampler.replacement else min(count, sampler.num_samples)
    if isinstance(sampler, WeightedRandomSampler):
        return int((sampler.weights[:count] > 0).sum())
    with seeded(0):
        return len(set(sampler))
