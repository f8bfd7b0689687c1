"""Results of jobs by their keys: what is done is not done again.

A stored file appears whole or not at all. One that cannot be read counts as missing.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from pydantic import JsonValue, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fedunlearn.errors import InputError
from fedunlearn.federation.accounting import Cost
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.files import write_whole
from fedunlearn.lab.stages import FittedModel, RequestOutcome
from fedunlearn.reporting.documents import Document, read_document
from fedunlearn.reporting.results import Results


class ResultStore(ABC):
    """What the jobs of a run have computed, by their keys.

    Attributes:
        holds_recordings: Whether a trained model is held with what was recorded of it.
        persistent: Whether the store outlives the process; only then it holds results of runs.
    """

    holds_recordings = False
    persistent = False

    @abstractmethod
    def save_model(self, key: str, model: FittedModel) -> None:
        """Store a model."""

    @abstractmethod
    def model(self, key: str) -> FittedModel | None:
        """Return a stored model, or None."""

    @abstractmethod
    def save_outcomes(self, key: str, outcomes: Sequence[RequestOutcome]) -> None:
        """Store the outcomes of a method on every request."""

    @abstractmethod
    def outcomes(self, key: str) -> tuple[RequestOutcome, ...] | None:
        """Return stored outcomes, or None."""

    def save_recorded(self, key: str, trained: TrainedModel) -> None:
        """Hold a trained model with its recordings, where the store does."""
        del key, trained

    def recorded(self, key: str) -> TrainedModel | None:
        """Return a trained model with its recordings, or None."""
        del key
        return None

    def save_results(self, key: str, results: Results) -> None:
        """Store the results of a run, where the store is persistent."""
        del key, results

    def results(self, key: str) -> Results | None:
        """Return the stored results of a run, or None."""
        del key
        return None


class MemoryStore(ResultStore):
    """Results of one run, which end with the process.

    Recordings are large: those of the first and of the latest trained model are held.
    """

    holds_recordings = True

    def __init__(self) -> None:
        """Start without results."""
        self._models: dict[str, FittedModel] = {}
        self._outcomes: dict[str, tuple[RequestOutcome, ...]] = {}
        self._recorded: dict[str, TrainedModel] = {}

    def save_model(self, key: str, model: FittedModel) -> None:
        """See ResultStore."""
        self._models[key] = model

    def model(self, key: str) -> FittedModel | None:
        """See ResultStore."""
        return self._models.get(key)

    def save_outcomes(self, key: str, outcomes: Sequence[RequestOutcome]) -> None:
        """See ResultStore."""
        self._outcomes[key] = tuple(outcomes)

    def outcomes(self, key: str) -> tuple[RequestOutcome, ...] | None:
        """See ResultStore."""
        return self._outcomes.get(key)

    def save_recorded(self, key: str, trained: TrainedModel) -> None:
        """See ResultStore."""
        self._recorded = {**dict(list(self._recorded.items())[:1]), key: trained}

    def recorded(self, key: str) -> TrainedModel | None:
        """See ResultStore."""
        return self._recorded.get(key)


class _StoredOutcome(Document):
    """The part of an outcome that is no tensor; ``rounds`` belong to the points of its path."""

    status: str
    claim: str
    details: dict[str, JsonValue]
    cost: Cost
    compute: float
    recording: Cost | None
    rounds: tuple[int, ...]


_COST, _OUTCOMES = TypeAdapter(Cost), TypeAdapter(tuple[_StoredOutcome, ...])


class FolderStore(ResultStore):
    """Results in a folder, which other processes and later runs use too."""

    persistent = True

    def __init__(self, folder: Path) -> None:
        """Use a folder, which is made when first written to."""
        self.folder = folder

    def save_model(self, key: str, model: FittedModel) -> None:
        """See ResultStore."""
        self._save(key, {"weights": model.weights}, _COST.dump_json(model.cost))

    def model(self, key: str) -> FittedModel | None:
        """See ResultStore."""
        found = self._load(key)
        try:
            return found and FittedModel(found[0]["weights"], _COST.validate_json(found[1]))
        except (KeyError, ValidationError):
            return None

    def save_outcomes(self, key: str, outcomes: Sequence[RequestOutcome]) -> None:
        """See ResultStore."""
        tensors: dict[str, Tensor] = {}
        documents = []
        for number, outcome in enumerate(outcomes):
            tensors[f"{number}.weights"] = outcome.weights
            if outcome.before_recovery is not None:
                tensors[f"{number}.before_recovery"] = outcome.before_recovery
            for point, (_, probabilities) in enumerate(outcome.path):
                tensors[f"{number}.path.{point}"] = probabilities
            documents.append(
                _StoredOutcome(
                    status=outcome.status,
                    claim=outcome.claim,
                    details=dict(outcome.details),
                    cost=outcome.cost,
                    compute=outcome.compute,
                    recording=outcome.recording,
                    rounds=tuple(rounds for rounds, _ in outcome.path),
                )
            )
        self._save(key, tensors, _OUTCOMES.dump_json(tuple(documents)))

    def outcomes(self, key: str) -> tuple[RequestOutcome, ...] | None:
        """See ResultStore."""
        found = self._load(key)
        if found is None:
            return None
        tensors, text = found
        try:
            return tuple(
                RequestOutcome(
                    weights=tensors[f"{number}.weights"],
                    before_recovery=tensors.get(f"{number}.before_recovery"),
                    status=stored.status,
                    claim=stored.claim,
                    details=stored.details,
                    cost=stored.cost,
                    compute=stored.compute,
                    recording=stored.recording,
                    path=tuple(
                        (rounds, tensors[f"{number}.path.{point}"])
                        for point, rounds in enumerate(stored.rounds)
                    ),
                )
                for number, stored in enumerate(_OUTCOMES.validate_json(text))
            )
        except (KeyError, ValidationError):
            return None

    def save_results(self, key: str, results: Results) -> None:
        """See ResultStore."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / f"{key}.json", results.to_json())

    def results(self, key: str) -> Results | None:
        """See ResultStore."""
        try:
            return read_document(self.folder / f"{key}.json", Results)
        except InputError:
            return None

    def _save(self, key: str, tensors: dict[str, Tensor], document: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.folder / f".{key}.{os.getpid()}"
        whole = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
        try:
            save_file(whole, draft, metadata={"document": document.decode()})
            draft.replace(self._path(key))
        finally:
            draft.unlink(missing_ok=True)

    def _load(self, key: str) -> tuple[dict[str, Tensor], str] | None:
        try:
            with safe_open(self._path(key), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
                return tensors, file.metadata()["document"]
        except (FileNotFoundError, SafetensorError, TypeError, KeyError):
            return None

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"
