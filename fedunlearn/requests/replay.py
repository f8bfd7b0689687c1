"""Replay of the log: the state of a request store that follows from the log's entries alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedunlearn.errors import VerificationError


@dataclass(frozen=True)
class Removal:
    """A removal as described by its row in the log."""

    deletion: str
    job: str
    base: str
    new: str
    time: str


@dataclass
class Replay:
    """The state of a store that follows from the rows of its log.

    Attributes:
        removals: Removals by the index of their rows.
        taken_back: Indexes of the removals that were rolled back.
        current: The current model; None before the first.
        files: Whether the file of a model is present or disposed of, by model.
        parents: The model from which a removal made another, by the new model.
        retired: Models that were rolled back and are not in use again.
        keys: Principal and role of each key.
        revoked: Times of revocation of the revoked keys.
        owners: Owners by node.
        commitments: Root and size of the commitments, by node.
        classes: Names of the classes that requests may name.
    """

    removals: dict[int, Removal] = field(default_factory=dict)
    taken_back: set[int] = field(default_factory=set)
    current: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    retired: set[str] = field(default_factory=set)
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    revoked: dict[str, str] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    commitments: dict[str, tuple[str, int]] = field(default_factory=dict)
    classes: frozenset[str] = frozenset()

    def follow(self, index: int, entry: Mapping[str, Any]) -> None:
        """Apply the next row.

        Args:
            index: Index of the row in the log.
            entry: Entry of the row.

        Raises:
            VerificationError: The entry contradicts the rows before it.
        """
        steps = {
            "key": self._key,
            "commitment": self._commitment,
            "classes": self._classes,
            "model": self._model,
            "removal": self._removal,
            "rollback": self._rollback,
            "disposal": self._disposal,
        }
        kind = entry.get("kind")
        step = steps.get(kind) if isinstance(kind, str) else None
        if step is None:
            raise VerificationError(f"its kind is unknown: {kind!r}")
        try:
            step(index, entry)
        except (KeyError, TypeError) as error:
            raise VerificationError(f"it lacks a field of its kind: {error}") from None

    def _key(self, _: int, entry: Mapping[str, Any]) -> None:
        key_id = _text(entry, "key_id")
        if entry["action"] == "revoke":
            self.revoked[key_id] = _text(entry, "time")
            return
        principal = _text(entry, "principal")
        self.keys[key_id] = principal, _text(entry, "role")
        self.owners.update(dict.fromkeys(_texts(entry, "nodes"), principal))

    def _commitment(self, _: int, entry: Mapping[str, Any]) -> None:
        self.commitments[_text(entry, "node")] = _text(entry, "root"), _whole(entry["size"])

    def _classes(self, _: int, entry: Mapping[str, Any]) -> None:
        self.classes = frozenset(_texts(entry, "names"))

    def _model(self, _: int, entry: Mapping[str, Any]) -> None:
        if self.current is not None:
            raise VerificationError("it adds a first model although there is a model already")
        self._use(_text(entry, "model"))

    def _removal(self, index: int, entry: Mapping[str, Any]) -> None:
        names = ("deletion", "job", "model_before", "model_after", "time")
        found = Removal(*(_text(entry, name) for name in names))
        before = self.removals.get(index - 1)
        same_swap = before is not None and (before.job, before.base, before.new) == (
            found.job,
            found.base,
            found.new,
        )
        if not same_swap and found.base != self.current:
            raise VerificationError(f"it is from model {found.base}, which was not the current one")
        if found.deletion in {self.removals[i].deletion for i in self._standing()}:
            raise VerificationError(f"request {found.deletion} was removed before")
        self.removals[index] = found
        if found.new != found.base:
            self.parents[found.new] = found.base
        self._use(found.new)

    def _rollback(self, _: int, entry: Mapping[str, Any]) -> None:
        job = [i for i in self._standing() if self.removals[i].job == entry["job"]]
        if not job or job[-1] != max(self._standing()):
            raise VerificationError("it does not roll back the last removal")
        last = self.removals[job[-1]]
        logged = entry["deletions"], entry["model_before"], entry["model_after"]
        if logged != ([self.removals[i].deletion for i in job], last.new, last.base):
            raise VerificationError("its requests or models are not those of the removal")
        self.taken_back.update(job)
        if last.new != last.base:
            self.retired.add(last.new)
        self.current = last.base

    def _disposal(self, _: int, entry: Mapping[str, Any]) -> None:
        model = _text(entry, "model")
        if model == self.current:
            raise VerificationError("it disposes of the current model")
        self.files[model] = "disposed"

    def _use(self, model: str) -> None:
        self.current = model
        self.files[model] = "present"
        self.retired.discard(model)

    def _standing(self) -> Iterable[int]:
        return [index for index in self.removals if index not in self.taken_back]


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is not a text")
    return value


def _texts(entry: Mapping[str, Any], name: str) -> list[str]:
    values = entry[name]
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{name} is not a list of texts")
    return values


def _whole(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is not a whole number")
    return value
