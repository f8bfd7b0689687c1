"""What a node of a user's app stores between messages: tombstones and exclusions.

A node with a folder for records stores its tombstones there permanently. Without one they are in
the state of the run, which Flower stores on the node until the run ends.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from flwr.app import ConfigRecord, Context
from torch import Tensor

from fedunlearn.errors import NodeLeftError, TaskError
from fedunlearn.files import write_whole
from fedunlearn.node.records import NodeRecords
from fedunlearn.node.run_records import RunRecords

STATE = "fedunlearn"  # key of the record in a context's state
TOMBSTONES, EXCLUDED, EXAMPLES, KEPT = "tombstones", "excluded", "examples", "kept"
KEPT_FILE = "kept"
MOST_SIZES = 4  # number of sizes of data passed to ``kept`` that are stored
FOLDERS = "FEDUNLEARN_RECORDS"  # environment variable: a folder with one folder per node


class NodeMemory:
    """The stored state of one node; the object is made again for every message.

    Attributes:
        records: Tombstones, and commitments where there is a folder.
        durable: Whether the records outlast the run.
    """

    def __init__(self, context: Context, folder: Path | None) -> None:
        """Read the stored state from a context.

        Args:
            context: Context of the message.
            folder: Folder for records; None for none.
        """
        self._context = context
        self._folder = folder
        self.durable = folder is not None
        self.records: NodeRecords | RunRecords = (
            RunRecords(self._read, self._write) if folder is None else NodeRecords(folder)
        )

    @property
    def left(self) -> bool:
        """Whether the node has left the federation."""
        self.records.tombstones.refresh()
        return self.records.tombstones.has_left

    @property
    def kept(self) -> bool:
        """Whether the app's own code has called ``kept``."""
        if KEPT in self._state:
            return True
        return self._folder is not None and (self._folder / KEPT_FILE).exists()

    def note_kept(self, examples: int) -> None:
        """Record that the app's own code has called ``kept``.

        Args:
            examples: Number of examples in the data that it passed.
        """
        before = self._sizes_kept()
        if examples in before:
            return
        if not self.kept and self._folder is not None:
            write_whole(self._folder / KEPT_FILE, "")
        self._put(KEPT, [*before, examples][-MOST_SIZES:])

    def require_same_data(self, examples: int) -> None:
        """Check that ``kept`` was called with data of the size that ``data`` returns.

        Args:
            examples: Number of examples in the data of ``unlearnable``.

        Raises:
            TaskError: It was called with data of another size, in which a place names another
                record.
        """
        for given in self._sizes_kept():
            _require_same(given, examples)

    def exclude(self, places: Tensor | None, examples: int) -> None:
        """Exclude examples from training until they are removed or the removal is abandoned.

        Args:
            places: Places in the node's data, (m,); None for none.
            examples: Number of examples in the data.
        """
        self.note_examples(examples)
        chosen = torch.empty(0, dtype=torch.int64) if places is None else places
        self._put(EXCLUDED, chosen.numpy().astype("<i8").tobytes())

    def note_examples(self, examples: int) -> None:
        """Record the number of examples in the data of ``unlearnable``."""
        self._put(EXAMPLES, examples)

    def stays(self, examples: int) -> Tensor:
        """Return which of the examples may be used for training, booleans (n,).

        Args:
            examples: Number of examples in the data to be used for training.

        Raises:
            NodeLeftError: No example may be used, because the node has left.
            TaskError: The data are not those in which removals name records.
        """
        tombstones = self.records.tombstones
        tombstones.refresh()
        tombstones.require_present()
        excluded = self._excluded()
        known = self._state.get(EXAMPLES)
        any_gone = tombstones.any_removed or len(excluded) > 0
        if any_gone and isinstance(known, int):
            _require_same(examples, known)
        stays = tombstones.stays(examples)
        stays[excluded] = False
        if any_gone and not bool(stays.any()):
            raise NodeLeftError("all examples of this node are removed; it takes no further part")
        return stays

    def _excluded(self) -> Tensor:
        value = self._state.get(EXCLUDED, b"")
        assert isinstance(value, bytes)  # written by exclude
        return torch.frombuffer(bytearray(value), dtype=torch.int64) if value else _NONE

    @property
    def _state(self) -> ConfigRecord:
        return self._context.state.config_records.get(STATE, ConfigRecord())

    def _sizes_kept(self) -> list[int]:
        value = self._state.get(KEPT, [])
        return [int(one) for one in value] if isinstance(value, list) else []

    def _put(self, key: str, value: int | bytes | list[int]) -> None:
        record = ConfigRecord(dict(self._state))
        record[key] = value
        self._context.state[STATE] = record

    def _read(self) -> bytes | None:
        value = self._state.get(TOMBSTONES)
        return value if isinstance(value, bytes) else None

    def _write(self, text: bytes) -> None:
        self._put(TOMBSTONES, text)


def _require_same(given: int, known: int) -> None:
    if given != known:
        raise TaskError(
            f"kept: the dataset has {given} examples, the data of unlearnable(...) have {known} to "
            "train on; give both the same data, so that a place names the same record"
        )


_NONE = torch.empty(0, dtype=torch.int64)


def name_of(context: Context) -> str:
    """Return the name of a node in the federation.

    Args:
        context: Context of the node.

    Returns:
        ``name`` of its node config, else its ``partition-id``, else Flower's node id.
    """
    config = context.node_config
    return str(config.get("name") or config.get("partition-id", context.node_id))


def folder_of(context: Context, name: str) -> Path | None:
    """Return a node's folder for records.

    The node config names it (``records``). Otherwise an environment variable may name a folder that
    contains one for each node of the machine, as a worker sets it for a simulation.

    Args:
        context: Context of the node.
        name: Name of the node.
    """
    configured = context.node_config.get("records")
    if configured:
        return Path(str(configured))
    shared = os.environ.get(FOLDERS)
    if not shared:
        return None
    return Path(shared) / f"node-{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}"
