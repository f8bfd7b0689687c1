"""A user's data without some examples, in their original form."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    Subset,
    WeightedRandomSampler,
)

from fedunlearn.errors import TaskError


def size_of(dataset: Any) -> int:
    """Return the number of examples in a user's data.

    Args:
        dataset: A ``DataLoader``, a map-style dataset of torch or of HuggingFace, a tensor or an
            array, or a tuple of these.

    Raises:
        TaskError: The data have no places.
    """
    if isinstance(dataset, DataLoader):
        return size_of(dataset.dataset)
    if isinstance(dataset, tuple) and dataset:
        return size_of(dataset[0])
    try:
        return len(dataset)
    except TypeError:
        raise TaskError(
            f"kept: {type(dataset).__name__} has no length, so that its examples have no places; "
            "give a map-style dataset"
        ) from None


def without_examples(dataset: Any, stays: Tensor) -> Any:
    """Return a user's data without some examples.

    Args:
        dataset: See size_of.
        stays: Which examples stay, booleans (n,).

    Returns:
        Data of the same form: a loader with the same batches' size and shuffling, a HuggingFace
        dataset, tensors, or ``torch.utils.data.Subset``.

    Raises:
        TaskError: The loader uses its own sampler.
    """
    places = torch.nonzero(stays)[:, 0]
    if isinstance(dataset, DataLoader):
        return _loader(dataset, stays, places)
    if isinstance(dataset, Tensor):
        return dataset[places.to(dataset.device)]
    if isinstance(dataset, np.ndarray):
        return dataset[places.numpy()]
    if isinstance(dataset, tuple):
        return tuple(without_examples(one, stays) for one in dataset)
    if hasattr(dataset, "select") and hasattr(dataset, "features"):  # HuggingFace
        return dataset.select(places.tolist())
    return Subset(dataset, places.tolist())


def _loader(loader: DataLoader[Any], stays: Tensor, places: Tensor) -> DataLoader[Any]:
    sampler = loader.sampler
    options: dict[str, Any] = {}
    if isinstance(sampler, WeightedRandomSampler):
        weights = torch.as_tensor(sampler.weights)[places].tolist()
        options["sampler"] = WeightedRandomSampler(
            weights, min(sampler.num_samples, len(places)), sampler.replacement
        )
    elif isinstance(sampler, RandomSampler):
        options["shuffle"] = True
    elif not isinstance(sampler, SequentialSampler):
        options = {"sampler": None}
    if options.get("sampler", "") is None or type(loader.batch_sampler) is not BatchSampler:
        raise TaskError(
            "kept: the DataLoader has its own sampler; give kept(...) the dataset, and make the "
            "loader from its result"
        )
    return DataLoader(
        without_examples(loader.dataset, stays),
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        drop_last=loader.drop_last,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        generator=loader.generator,
        persistent_workers=loader.persistent_workers,
        **options,
    )
