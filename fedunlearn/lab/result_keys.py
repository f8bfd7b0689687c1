"""The keys under which results are stored: the sha256 of everything that a result depends on.

That is data and partition as tensors, the initial weights, settings, requests, and the source of
this package (and of a method from another).
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
from pydantic import JsonValue

import fedunlearn
from fedunlearn.data.sources import Split
from fedunlearn.lab.experiment import Experiment
from fedunlearn.lab.source import source_digest
from fedunlearn.networks import NetworkDigest, build_model
from fedunlearn.parameters import digest, initial_weights
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.questions.wire import encode_forget_set
from fedunlearn.reporting.results import Environment

# The modules that compute what is stored; everything that they import belongs to them.
COMPUTING = ("fedunlearn.lab.stages", "fedunlearn.flower.simulation")
MEASURING = ("fedunlearn.lab.measuring",)


def model_key(experiment: Experiment, seed: int, forget: ForgetSet | None) -> str:
    """Return the key of a trained model, or of one retrained without a forget set."""
    return _sha256(_of_model(experiment, seed, forget))


def outcomes_key(
    experiment: Experiment, seed: int, name: str, budgets: Sequence[float] | None
) -> str:
    """Return the key of the outcomes of a method on every request."""
    method = experiment.methods[name]
    document = {
        **_of_model(experiment, seed, None),
        "method": f"{type(method).__module__}:{type(method).__qualname__}",
        "method-source": _source_of(type(method)),
        "settings": method.settings.model_dump(mode="json"),
        "requests": [_bytes_of(forget) for forget in experiment.requests],
        "recovery": experiment.scenario.unlearning.recovery_rounds,
        "budgets": None if budgets is None else list(budgets),
    }
    return _sha256(document)


def results_key(experiment: Experiment, budgets: Sequence[float], environment: Environment) -> str:
    """Return the key of the results of a run, which depend on everything in it."""
    split = experiment.task.split
    document: dict[str, JsonValue] = {
        "code": _code(MEASURING),
        "name": experiment.name,
        "names": [*split.node_names, *split.labels],
        "scenario": experiment.as_run(),
        "models": [
            model_key(experiment, seed, forget)
            for seed in experiment.oracle_seeds
            for forget in experiment.requests
        ],
        "outcomes": [
            outcomes_key(experiment, seed, name, budgets if number else None)
            for seed in experiment.replica_seeds
            for number, name in enumerate(experiment.methods)
        ],
        "environment": environment.model_dump(mode="json"),
    }
    return _sha256(document)


def _of_model(experiment: Experiment, seed: int, forget: ForgetSet | None) -> dict[str, JsonValue]:
    return {
        "code": _code(COMPUTING),
        "torch": str(torch.__version__),
        "data": _digest_of(experiment.task.split),
        "initial": digest(initial_weights(experiment.task.model, seed)).hex(),
        "network": NetworkDigest.of(build_model(experiment.task.model)).digest.hex(),
        "model": experiment.scenario.model.model_dump(mode="json"),
        "training": experiment.training(seed).model_dump(mode="json"),
        "forget": _bytes_of(forget) if forget else None,
    }


def _sha256(document: Mapping[str, JsonValue]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _bytes_of(forget: ForgetSet) -> str:
    return encode_forget_set(forget).SerializeToString(deterministic=True).hex()


_DIGESTS: dict[int, tuple[Split, str]] = {}


def _digest_of(split: Split) -> str:
    """Return the SHA-256 of all examples and their nodes; computed once for the latest split."""
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
def _code(modules: tuple[str, ...]) -> str:
    """Return the digest of the source code of some modules and of what they import."""
    return source_digest(Path(fedunlearn.__file__).parent, modules)


@cache
def _source_of(method: type) -> str:
    """Return the digest of the source of a method, and of what it imports from this package."""
    try:
        source = inspect.getsource(inspect.getmodule(method) or method)
        return source_digest(Path(fedunlearn.__file__).parent, (), source)
    except (OSError, TypeError, SyntaxError):  # defined in no file
        return ""
