"""Examples of a map-style dataset: a pass over them holds one batch, whatever their number."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate
from typing_extensions import override

from fedunlearn.errors import FedunlearnError, NotDeterministicError, OwnCodeError, TaskError
from fedunlearn.parameters import seeded
from fedunlearn.risk.examples import Batch, Examples, Form, are_labels, require_finite_batch
from fedunlearn.risk.randomness import global_sources, same_values
from fedunlearn.trees import Tree, encoded, extent, map_tensors, tensors_of

# Bytes of a batch that is read at once, and items of one where they are small.
BATCH_BYTES = 8 * 2**20
READ_AT_ONCE = 256
PROBED_LENGTHS = 64
PROBED_DRAWS = 8
# Apart from the seeds of items, which are their places.
OTHER_SEED = 2**31

Collate = Callable[[list[Tree]], Tree]
Divide = Callable[[Tree], Batch]


class MapStyle(Protocol):
    """What has a length and an item for each whole number below it."""

    def __len__(self) -> int:
        """Return the number of items."""
        ...

    def __getitem__(self, place: int, /) -> Tree:
        """Return one item."""
        ...


def gathered(items: list[Tree]) -> Tree:
    """Stack items as torch's default collate does, lists of numbers as tensors."""

    def stackable(tree: Tree) -> Tree:
        if isinstance(tree, Mapping):
            return {key: stackable(one) for key, one in tree.items()}
        if isinstance(tree, list) and tree and all(isinstance(one, int | float) for one in tree):
            return torch.tensor(tree)
        if isinstance(tree, list | tuple) and not hasattr(tree, "_fields"):
            return type(tree)(stackable(one) for one in tree)
        return tree

    return default_collate([stackable(item) for item in items])


def last_is_target(batch: Tree) -> Batch:
    """Divide a batch (inputs, ..., targets): several inputs stay a tuple."""
    *inputs, targets = batch
    return (inputs[0] if len(inputs) == 1 else tuple(inputs)), targets


@dataclass(frozen=True)
class _Survey:
    """What one pass over all items finds.

    Attributes:
        lengths: Length of each item, shape (n,).
        labels: Label of each item, shape (n,); None where the targets are not labels.
    """

    lengths: Tensor
    labels: Tensor | None


@dataclass(frozen=True)
class _Probe:
    """What a look at a few items finds.

    Attributes:
        augmented: Whether they are drawn at random.
        varied: Whether their lengths differ.
    """

    augmented: bool
    varied: bool


class _Source:
    """A dataset and how its items become batches."""

    def __init__(
        self,
        dataset: MapStyle,
        collate: Collate,
        divide: Divide,
        label_of: Callable[[Tree], Tree] | None,
    ) -> None:
        self.dataset = dataset
        self.collate = collate
        self.divide = divide
        self.label_of = label_of or (lambda batch: divide(batch)[1])

    def item(self, place: int, seed: int | None = None) -> Tree:
        """Read one item under a seed, its place by default; only within ``seeded``."""
        _reseed(place if seed is None else seed)
        try:
            return self.dataset[place]
        except FedunlearnError:
            raise
        except Exception as error:
            raise OwnCodeError(
                f"{type(error).__name__} in the task's own code: __getitem__ of the dataset; see "
                "the node's log"
            ) from error

    def items(self, places: Tensor) -> list[Tree]:
        with seeded(0):
            return [self.item(place) for place in places.tolist()]

    def collated(self, items: list[Tree], seed: int = 0) -> Tree:
        """Put items together; mappings of any class become dictionaries."""
        try:
            with seeded(seed):
                batch = self.collate(items)
        except FedunlearnError:
            raise
        except Exception as error:
            if self.collate in (gathered, default_collate):
                raise TaskError(_why_not_stacked(items)) from error
            raise OwnCodeError(
                f"{type(error).__name__} in the task's own code: collate_fn; see the node's log"
            ) from error
        return map_tensors(lambda one: one, batch)

    def record(self, item: Tree) -> bytes:
        """Return an item's bytes; of one of unknown classes those of what collate makes of it."""
        found = encoded(item) or encoded(self.collated([item]))
        if found is None:
            raise TaskError(
                f"data: items hold {_strange(item) or type(item).__name__}, of which there are no "
                "bytes to commit to; return tensors, arrays, numbers and text"
            )
        return found

    @cached_property
    def probe(self) -> _Probe:
        """Look at a few items from all over the data.

        Raises:
            NotDeterministicError: Items or batches differ between two reads under one seed.
        """
        count = len(self.dataset)
        places = torch.arange(0, count, max(1, count // PROBED_LENGTHS))[:PROBED_LENGTHS].tolist()
        draws = set(places[:: max(1, len(places) // PROBED_DRAWS)])
        augmented, lengths, some = False, set(), []
        with seeded(0):
            for place in places:
                item = self.item(place)
                lengths.add(extent(item))
                if place not in draws:
                    continue
                some.append(item)
                augmented = self._drawn(place, self.record(item)) or augmented
        if some and not same_values(*(_plain(self.collated(some, seed)) for seed in (0, 1))):
            raise NotDeterministicError(
                "data: collate_fn gives other batches of the same items; draw masks and mixtures "
                "in training alone, and return a DataLoader without them"
            )
        return _Probe(augmented, len(lengths) > 1)

    def _drawn(self, place: int, record: bytes) -> bool:
        """Return whether an item draws from the global generators.

        Raises:
            NotDeterministicError: The batch differs under the same seed.
        """
        if self.record(self.item(place)) != record:
            raise NotDeterministicError(
                "data: an item of the dataset differs when it is read again, under the same seed "
                "too; draw augmentation from the global generators of torch, NumPy or random, or "
                "leave it out"
            )
        seed = OTHER_SEED + place
        _reseed(seed)
        before = [source.read() for source in global_sources()]
        if self.record(self.item(place, seed)) != record:
            return True
        after = [source.read() for source in global_sources()]
        return not all(same_values(*pair) for pair in zip(before, after, strict=True))

    @cached_property
    def at_once(self) -> int:
        """How many items one batch may have."""
        count = min(2, len(self.dataset))
        places = torch.arange(count)
        if self.probe.varied:
            places = self.survey.lengths.topk(count).indices
        batch = self.collated(self.items(places))
        size = sum(one.nbytes for one in tensors_of(batch)) // max(1, count)
        return max(1, BATCH_BYTES // max(1, size))

    @cached_property
    def survey(self) -> _Survey:
        """Read all items once."""
        lengths: list[int] = []
        labels: list[Tensor] | None = []
        for places in torch.arange(len(self.dataset)).split(READ_AT_ONCE):
            found, length = self._surveyed(places, labelled=labels is not None)
            lengths += length
            labels = None if labels is None or found is None else [*labels, found]
        return _Survey(torch.tensor(lengths), torch.cat(labels) if labels else None)

    def _surveyed(self, places: Tensor, *, labelled: bool) -> tuple[Tensor | None, list[int]]:
        lengths: list[int] = []
        parts: list[Tensor] = []
        waiting: list[Tree] = []
        size = 0
        for place in places.tolist():
            with seeded(0):
                waiting.append(self.item(place))
            lengths.append(extent(waiting[-1]))
            size += 4 * lengths[-1]
            if size >= BATCH_BYTES or place == int(places[-1]):
                if labelled:
                    found = self.label_of(self.collated(waiting))
                    labelled = are_labels(found) and len(found) == len(waiting)
                    parts += [found.cpu()] if labelled else []
                waiting, size = [], 0
        return (torch.cat(parts) if labelled else None), lengths


class DatasetExamples(Examples):
    """A map-style dataset, read item by item; an item's index is its place.

    Every item is read under a seed of its own, so that random augmentation is fixed to one draw and
    the risk is one function of the weights. The global generators are left as they were.
    """

    def __init__(
        self,
        dataset: MapStyle,
        collate: Collate = gathered,
        *,
        divide: Divide = last_is_target,
        label_of: Callable[[Tree], Tree] | None = None,
    ) -> None:
        """Take a dataset; nothing is read yet.

        Args:
            dataset: Has a length and items.
            collate: Puts items together to a batch.
            divide: Returns inputs and targets of a batch.
            label_of: Returns the labels of a batch, or something else where it has none; those
                that ``divide`` returns as targets, by default.
        """
        self._source = _Source(dataset, collate, divide, label_of)
        self._places = torch.arange(len(dataset))

    @override
    def __len__(self) -> int:
        return len(self._places)

    @property
    @override
    def augmented(self) -> bool:
        return len(self._source.dataset) > 0 and self._source.probe.augmented

    def require_fixed(self) -> None:
        """Read a few items twice.

        Raises:
            NotDeterministicError: Items or batches differ between two reads under one seed.
        """
        if len(self._source.dataset):
            _ = self._source.probe

    def divided(self, divide: Divide, label_of: Callable[[Tree], Tree]) -> DatasetExamples:
        """Return the same examples, of which batches are divided in another way."""
        source = _Source(self._source.dataset, self._source.collate, divide, label_of)
        if "probe" in vars(self._source):
            source.probe = self._source.probe
        return self._with(source, self._places)

    def collated(self, places: Tensor) -> Tree:
        """Return a batch as collate makes it, before it is divided."""
        return self._source.collated(self._source.items(self._places[places]))

    @override
    def batch(self, places: Tensor) -> Batch:
        inputs, targets = self._source.divide(self.collated(places))
        require_finite_batch(inputs, targets)
        return inputs, targets

    @override
    def at(self, places: Tensor) -> DatasetExamples:
        return self._with(self._source, self._places[places])

    @property
    @override
    def labels(self) -> Tensor | None:
        found = self._source.survey.labels
        return None if found is None else found[self._places]

    @override
    def record_bytes(self) -> Iterator[bytes]:
        for places in self._places.split(PROBED_DRAWS):
            for item in self._source.items(places):
                yield self._source.record(item)

    @override
    def form(self) -> Form:
        return (self._form,)

    @cached_property
    def _form(self) -> str:
        kinds = (
            map_tensors(lambda one: torch.empty([0] * one.ndim, dtype=one.dtype), tree)
            for tree in self.batch(self.longest(1))
        )
        return " ".join(repr(kind) for kind in kinds)

    @override
    def chunks(self, size: int) -> list[Tensor]:
        size = min(size, self._source.at_once)
        if not self._source.probe.varied:
            return super().chunks(size)
        return list(self._lengths.argsort(stable=True).split(size))

    @override
    def longest(self, count: int) -> Tensor:
        count = min(count, len(self))
        if not self._source.probe.varied:
            return torch.arange(min(count, self._source.at_once))
        return self._lengths.topk(min(count, self._source.at_once)).indices

    @property
    def _lengths(self) -> Tensor:
        return self._source.survey.lengths[self._places]

    @override
    def held(self) -> DatasetExamples:
        if isinstance(self._source.dataset, list):
            return self
        items = self._source.items(self._places)
        old = self._source
        source = _Source(items, old.collate, old.divide, old.label_of)
        source.probe = old.probe
        return self._with(source, torch.arange(len(items)))

    @override
    def require_finite(self) -> None:
        """Leave it to ``batch``: a pass over all of the data is not made for it."""

    def _with(self, source: _Source, places: Tensor) -> DatasetExamples:
        other = DatasetExamples.__new__(DatasetExamples)
        other._source = source
        other._places = places
        return other


def _reseed(seed: int) -> None:
    """Seed the global generators of the processor, for one item."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def _plain(batch: Tree) -> Tree:
    return batch if isinstance(batch, Tensor | Mapping | list | tuple) else list(tensors_of(batch))


def _why_not_stacked(items: list[Tree]) -> str:
    strange = _strange(items[0])
    if strange is not None:
        return (
            f"data: items hold {strange}, which cannot be stacked to a batch; return tensors by a "
            "transform of the dataset (with_transform), or return a DataLoader with a collate_fn"
        )
    return (
        "data: items have different lengths or shapes, which cannot be stacked to a batch; return "
        "a DataLoader with a collate_fn that pads them, as "
        "transformers.DataCollatorWithPadding(tokenizer)"
    )


def _strange(item: Tree) -> str | None:
    """Return the class of what is neither tensor, array, number nor text in an item."""
    if isinstance(item, Tensor | np.ndarray | np.generic | int | float | str | bytes):
        return None
    if isinstance(item, Mapping | list | tuple):
        inner = item.values() if isinstance(item, Mapping) else item
        return next((found for found in map(_strange, inner) if found), None)
    return type(item).__name__
