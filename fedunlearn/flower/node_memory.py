"""What a node of a user's app remembers between messages: tombstones, and what is being removed.

A node with a folder for records keeps its tombstones there, for good. Without one they are in the
state of the run, which Flower keeps on the node until the run ends.
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

STATE = "fedunlearn"  # of a context's records
TOMBSTONES, EXCLUDED, EXAMPLES, KEPT = "tombstones", "excluded", "examples", "kept"
KEPT_FILE = "kept"
MOST_SIZES = 4  # of data that are remembered to have been given to kept
FOLDERS = "FEDUNLEARN_RECORDS"  # environment: a folder that holds one for each node


class NodeMemory:
    """What one node remembers; made anew for every message.

    Attributes:
        records: Tombstones, and with a folder commitments.
        durable: Whether they outlast the run.
    """

    def __init__(self, context: Context, folder: Path | None) -> None:
        """Look at a context.

        Args:
            context: Of the message.
            folder: For records; None for none.
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
        """Whether the app's own code has asked what may still be trained on."""
        if KEPT in self._state:
            return True
        return self._folder is not None and (self._folder / KEPT_FILE).exists()

    def note_kept(self, examples: int) -> None:
        """Note that the app's own code asks what may still be trained on.

        Args:
            examples: How many it has given to be looked through.
        """
        before = self._sizes_kept()
        if examples in before:
            return
        if not self.kept and self._folder is not None:
            write_whole(self._folder / KEPT_FILE, "")
        self._put(KEPT, [*before, examples][-MOST_SIZES:])

    def require_same_data(self, examples: int) -> None:
        """Require that ``kept`` was given data of the size that ``data`` returns.

        Args:
            examples: How many the data of ``unlearnable`` hold.

        Raises:
            TaskError: It was given others, in which places name other records.
        """
        for given in self._sizes_kept():
            _require_same(given, examples)

    def exclude(self, places: Tensor | None, examples: int) -> None:
        """Leave examples out of training until they are removed, or until that is given up.

        Args:
            places: In the node's data, (m,); None for none.
            examples: How many the data hold.
        """
        self.note_examples(examples)
        chosen = torch.empty(0, dtype=torch.int64) if places is None else places
        self._put(EXCLUDED, chosen.numpy().astype("<i8").tobytes())

    def note_examples(self, examples: int) -> None:
        """Note how many examples the data of ``unlearnable`` hold."""
        self._put(EXAMPLES, examples)

    def stays(self, examples: int) -> Tensor:
        """Return which of the examples may be trained on, booleans (n,).

        Args:
            examples: How many the data hold that are to be trained on.

        Raises:
            NodeLeftError: None may: the node has left.
            TaskError: The data are not those that removals name records of.
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
            raise NodeLeftError("all examples of this node are removed; it takes no part any more")
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
    """Return what the federation calls a node.

    Args:
        context: Of the node.

    Returns:
        ``name`` of its node config, else its ``partition-id``, else Flower's node id.
    """
    config = context.node_config
    return str(config.get("name") or config.get("partition-id", context.node_id))


def folder_of(context: Context, name: str) -> Path | None:
    """Return a node's folder for records.

    Its node config names it (``records``); or the environment names a folder that holds one for
    each node of the machine, as a worker does for a simulation.

    Args:
        context: Of the node.
        name: Of the node.
    """
    configured = context.node_config.get("records")
    if configured:
        return Path(str(configured))
    shared = os.environ.get(FOLDERS)
    if not shared:
        return None
    return Path(shared) / f"node-{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}"
