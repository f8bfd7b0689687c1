"""What a node decides for itself, in its ``--node-config``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from fedunlearn.errors import InputError

PAYLOADS: Mapping[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class NodeSettings:
    """A node's own settings; what it does not say is None.

    Attributes:
        number: ``partition-id``, which of the task's nodes it is; -1 where it need not say.
        together: ``num-partitions``: how many nodes may share the process, in a simulation.
        memory: ``memory-mib``, in bytes: held between the products of a basis.
        threads: ``threads`` of torch.
        payload: ``payload``, float32 or bfloat16: of the gradients and products it sends.
        records: ``records``: the folder for its commitments and its list of removed examples.
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
            numbered: Whether it must say which of a task's nodes it is.

        Returns:
            The settings.

        Raises:
            InputError: A key is missing or has a value that it cannot have.
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
