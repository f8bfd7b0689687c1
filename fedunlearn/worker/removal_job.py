"""The interface between the worker and the remover, which computes removals in a federation."""

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
        id: Id of the job, which does not change when another worker takes it over.
        scopes: Scopes to remove, by the ids of the requests.
        base: sha256 of the model file from which they are removed.
        before: Scopes that were removed before, in their order; nodes have permanent tombstones
            of them.
        again: Whether some of the data may have been removed once and rolled back. Their nodes do
            not use such data any more, not even to remove them, so that only a method that does
            not need them can be used.
    """

    id: str
    scopes: Mapping[str, Scope]
    base: str
    before: tuple[Scope, ...] = ()
    again: bool = False


@dataclass(frozen=True)
class Removed:
    """The result of a removal.

    Attributes:
        model: Content of the new model's safetensors file, determined by the answers of the nodes.
        method: Name of the method.
        settings: All settings of the method, in JSON types.
        status: Status that the method reports.
        claim: Claim class of the model.
        nodes: Names of the nodes that took part.
        missing: Names of the nodes that failed.
        rounds: Number of rounds of communication.
        bytes_up: Bytes from nodes to the server.
        bytes_down: Bytes from the server to nodes.
        measures: Measures for the gates, by name; see gates.py.
        keep: Writes the data that the next removal starts from into a folder, durably.
        network: sha256 over layers, frozen parameters and buffers, hexadecimal; empty if the
            remover does not know it.
        statistics: Origin of the running statistics of the new model; empty if it has none.
        uses_kept: Whether the app's own training excludes removed data by calling
            ``forgetting.kept``, by node; None if the nodes exclude them by themselves.
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
        """Compute the model without some data, without permanent changes.

        A repeated call for an interrupted job resumes the job.

        Args:
            job: The job with the scopes to remove.
            reached: Called at the beginning of the stages COLLECTING, SOLVING and VERIFYING.

        Raises:
            FedunlearnError: The data cannot be removed, now or by this method.
        """
        ...

    def record_tombstones(self, deletion: str, scope: Scope) -> Mapping[str, int]:
        """Record tombstones at the nodes for removed data; a repeated call changes nothing.

        Args:
            deletion: Id of the request.
            scope: Scope of the request.

        Returns:
            For each node, the number of examples for which it has recorded tombstones.
        """
        ...

    def done(self, job: str) -> None:
        """Delete the intermediate files of a job, if there are any."""
        ...
