"""The settings that a node makes for itself, in its ``--node-config``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from fedunlearn.errors import InputError

PAYLOADS: Mapping[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class NodeSettings:
    """A node's own settings; None where a setting is not given.

    Attributes:
        number: ``partition-id``, the number of the node in its task; -1 where none is required.
        together: ``num-partitions``, the number of nodes that may share the process in a
            simulation.
        memory: ``memory-mib``, in bytes: memory held between the products of a basis.
        threads: ``threads``, the number of threads of torch.
        payload: ``payload``, float32 or bfloat16: type in which gradients and products are sent.
        records: ``records``, the folder for commitments and tombstones.
    """

    number: int
    together: int
    memory: int | None
    threads: int | None
    payload: torch.dtype | None
    records: Path | None = None

    @classmethod
    def of(cls, config: Mapping[str, object], *, numbered: bool = True) -> NodeSettings:
        """Read a node config.

        Args:
            config: The node config.
            numbered: Whether the node config must give the node's number in the task.

        Returns:
            The settings.

        Raises:
            InputError: A key is missing or has a value that is not allowed.
        """
        payload = config.get("payload", "float32")
        if payload not in PAYLOADS:
            raise InputError(f"node config: payload is one of {', '.join(PAYLOADS)}")
        number = _whole(config, "partition-id", 0) if numbered else -1
        if number is None:
            raise InputError("node config: partition-id is missing; number the nodes from 0 on")
        memory = _whole(config, "memory-mib", 1)
        return cls(
            number=number,
            together=_whole(config, "num-partitions", 1) or 1,
            memory=None if memory is None else memory * 2**20,
            threads=_whole(config, "threads", 1),
            payload=PAYLOADS[str(payload)],
            records=Path(str(config["records"])) if config.get("records") else None,
        )


def _whole(config: Mapping[str, object], key: str, least: int) -> int | None:
    value = config.get(key)
    if value is None:
        return None
    if not isinstance(value, int | str) or not str(value).isdecimal() or int(value) < least:
        raise InputError(f"node config: {key} is a whole number from {least} on")
    return int(value)
