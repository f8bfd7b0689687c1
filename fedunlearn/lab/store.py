"""Results by content: what is done is not done again.

A key is the sha256 of all that a result depends on: data and partition as tensors, the initial
weights, settings, requests, and the source of this package (and of a method from another). A file
appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import fedunlearn
from fedunlearn.data.sources import Split
from fedunlearn.federation.accounting import Cost
from fedunlearn.lab.experiment import Experiment
from fedunlearn.lab.removal import Removal, Retrained
from fedunlearn.lab.source import source_digest
from fedunlearn.networks import NetworkDigest, build_model
from fedunlearn.parameters import digest, initial_weights
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.questions.wire import encode_forget_set

# The modules that compute what is kept; all that they import belongs to them.
COMPUTING = ("fedunlearn.lab.removal", "fedunlearn.flower.simulation")


class Store:
    """A folder of results."""

    def __init__(self, folder: Path) -> None:
        """Use a folder, which is made when first written to."""
        self.folder = folder

    def save_models(self, key: str, models: Sequence[Retrained]) -> None:
        """Keep models and what they cost."""
        self._save(
            key,
            {str(number): model.weights for number, model in enumerate(models)},
            [asdict(model.cost) for model in models],
        )

    def load_models(self, key: str) -> tuple[Retrained, ...] | None:
        """Return models that were kept, or None."""
        found = self._load(key)
        if found is None:
            return None
        tensors, costs = found
        return tuple(Retrained(tensors[str(n)], Cost(**cost)) for n, cost in enumerate(costs))

    def save_removals(self, key: str, removals: Sequence[Removal]) -> None:
        """Keep what a method made of every request, but for the path that led there."""
        tensors: dict[str, Tensor] = {}
        documents = []
        for number, removal in enumerate(removals):
            tensors[f"{number}.weights"] = removal.weights
            if removal.before_recovery is not None:
                tensors[f"{number}.before_recovery"] = removal.before_recovery
            documents.append(
                {
                    "status": removal.status,
                    "claim": removal.claim,
                    "details": dict(removal.details),
                    "cost": asdict(removal.cost),
                    "compute": removal.compute,
                    "recording": removal.recording and asdict(removal.recording),
                }
            )
        self._save(key, tensors, documents)

    def load_removals(self, key: str) -> tuple[Removal, ...] | None:
        """Return removals that were kept, or None."""
        found = self._load(key)
        if found is None:
            return None
        tensors, documents = found
        return tuple(
            Removal(
                weights=tensors[f"{number}.weights"],
                before_recovery=tensors.get(f"{number}.before_recovery"),
                status=document["status"],
                claim=document["claim"],
                details=document["details"],
                cost=Cost(**document["cost"]),
                compute=document["compute"],
                recording=document["recording"] and Cost(**document["recording"]),
            )
            for number, document in enumerate(documents)
        )

    def _save(self, key: str, tensors: dict[str, Tensor], document: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.folder / f".{key}.{os.getpid()}"
        whole = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
        try:
            save_file(whole, draft, metadata={"document": json.dumps(document)})
            draft.replace(self._path(key))
        finally:
            draft.unlink(missing_ok=True)

    def _load(self, key: str) -> tuple[dict[str, Tensor], Any] | None:
        """Read a file; one that cannot be read counts as not there and is made again."""
        try:
            with safe_open(self._path(key), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
                return tensors, json.loads(file.metadata()["document"])
        except (FileNotFoundError, SafetensorError, TypeError, KeyError, ValueError):
            return None

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def model_key(experiment: Experiment, seed: int, forget: ForgetSet | None) -> str:
    """Name a model that is trained, without what has left by a request where one is given."""
    return _sha256(_of_model(experiment, seed, forget))


def removals_key(
    experiment: Experiment, seed: int, name: str, budgets: Sequence[float] | None
) -> str:
    """Name what a method makes of every request."""
    method = experiment.methods[name]
    document = {
        **_of_model(experiment, seed, None),
        "method": f"{type(method).__module__}:{type(method).__qualname__}",
        "method-source": _source_of(type(method)),
        "settings": method.settings.model_dump(mode="json"),
        "requests": [_bytes_of(forget) for forget in experiment.requests],
        "recovery": experiment.scenario.unlearning.recovery_rounds,
        "budgets": budgets,
    }
    return _sha256(document)


def _of_model(experiment: Experiment, seed: int, forget: ForgetSet | None) -> dict[str, Any]:
    return {
        "code": _code(),
        "torch": str(torch.__version__),
        "data": _digest_of(experiment.task.split),
        "initial": digest(initial_weights(experiment.task.model, seed)).hex(),
        "network": NetworkDigest.of(build_model(experiment.task.model)).digest.hex(),
        "model": experiment.scenario.model.model_dump(mode="json"),
        "training": experiment.training(seed).model_dump(mode="json"),
        "forget": _bytes_of(forget) if forget else None,
    }


def _sha256(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _bytes_of(forget: ForgetSet) -> str:
    return encode_forget_set(forget).SerializeToString(deterministic=True).hex()


_DIGESTS: dict[int, tuple[Split, str]] = {}


def _digest_of(split: Split) -> str:
    """Return the sha256 of all examples and of who holds them; kept with the split it is of."""
    if id(split) not in _DIGESTS:
        named = hashlib.sha256()
        for tensor in (split.inputs, split.targets, split.test_inputs, split.test_targets):
            named.update(str((tensor.dtype, tuple(tensor.shape))).encode())
            named.update(tensor.contiguous().numpy().data)
        for indices in split.nodes:
            named.update(len(indices).to_bytes(8, "little"))
            named.update(indices.tobytes())
        _DIGESTS.clear()
        _DIGESTS[id(split)] = (split, named.hexdigest())
    return _DIGESTS[id(split)][1]


@cache
def _code() -> str:
    """Return the digest of the source that models and removals are computed by."""
    return source_digest(Path(fedunlearn.__file__).parent, COMPUTING)


@cache
def _source_of(method: type) -> str:
    """Return the digest of the source of a method, and of what it imports from this package."""
    try:
        source = inspect.getsource(inspect.getmodule(method) or method)
        return source_digest(Path(fedunlearn.__file__).parent, (), source)
    except (OSError, TypeError, SyntaxError):  # defined in no file
        return ""
