"""What a worker has done for it: the removal itself, by whoever knows the federation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fedunlearn.requests.deletion import Scope, Stage


@dataclass(frozen=True)
class RemovalJob:
    """Requests that are removed together.

    Attributes:
        id: Of the job; the same when another worker takes it over.
        scopes: What is to be removed, by the ids of the requests.
        base: sha256 of the model file from which it is removed.
        before: What was removed before, in that order; nodes have it on their lists for good.
        again: Whether some of it may have been removed once and rolled back: its nodes do not use
            that any more, not even to remove it, so that only a method will do that does not ask
            for it.
    """

    id: str
    scopes: Mapping[str, Scope]
    base: str
    before: tuple[Scope, ...] = ()
    again: bool = False


@dataclass(frozen=True)
class Removed:
    """What a removal gave.

    Attributes:
        model: Content of the new model's safetensors file; the same for the same answers of nodes.
        method: Name of the method.
        settings: All of its settings, JSON-able.
        status: How it went, in the method's words.
        claim: What may be said of the model.
        nodes: The names of those that took part.
        missing: The names of those that should have, and failed.
        rounds: Of communication.
        bytes_up: From nodes to the server.
        bytes_down: From the server to nodes.
        measures: For the gates, by name; see gates.py.
        keep: Writes what the next removal starts from into a folder, durably.
        network: sha256 over layers, frozen parameters and buffers, hexadecimal; empty where the
            remover does not know.
        statistics: How running statistics of the new model came about; empty where it has none.
        uses_kept: By node, whether the app's own training leaves out what was removed; None where
            nodes do so by themselves.
    """

    model: bytes
    method: str
    settings: Mapping[str, object]
    status: str
    claim: str
    nodes: tuple[str, ...]
    missing: tuple[str, ...]
    rounds: int
    bytes_up: int
    bytes_down: int
    measures: Mapping[str, float]
    keep: Callable[[Path], None] = field(compare=False)
    network: str = ""
    statistics: str = ""
    uses_kept: Mapping[str, bool] | None = None


class Remover(Protocol):
    """Removes data from a model with the help of the federation's nodes."""

    def remove(self, job: RemovalJob, reached: Callable[[Stage], None]) -> Removed:
        """Compute the model without some data; changes nothing that lasts.

        Called again for a job that was interrupted, it goes on where that one stopped.

        Args:
            job: What to remove.
            reached: Told of the stages COLLECTING, SOLVING and VERIFYING.

        Raises:
            FedunlearnError: It cannot be removed, now or in this way.
        """
        ...

    def record_tombstones(self, deletion: str, scope: Scope) -> Mapping[str, int]:
        """Have nodes never use again what was removed; again for the same changes nothing.

        Args:
            deletion: Id of the request.
            scope: What it removed.

        Returns:
            How many examples each node has put on its list.
        """
        ...

    def done(self, job: str) -> None:
        """Delete what was kept of a job while it was computed; nothing where it is gone."""
        ...
