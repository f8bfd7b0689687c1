"""A node's own settings, as its operator writes them."""

from __future__ import annotations

import pytest
import torch

from fedunlearn.errors import InputError
from fedunlearn.flower.node_settings import NodeSettings


def test_what_is_not_said_is_left_to_the_program() -> None:
    assert NodeSettings.of({"partition-id": 3}) == NodeSettings(3, 1, None, None, None)


def test_all_that_can_be_said() -> None:
    config = {
        "partition-id": 0,
        "num-partitions": 4,
        "memory-mib": 64,
        "threads": 2,
        "payload": "bfloat16",
    }
    assert NodeSettings.of(config) == NodeSettings(0, 4, 64 * 2**20, 2, torch.bfloat16)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "partition-id is missing"),
        ({"partition-id": -1}, "partition-id is a whole number from 0 on"),
        ({"partition-id": "north"}, "partition-id is a whole number from 0 on"),
        ({"partition-id": 0, "memory-mib": 0}, "memory-mib is a whole number from 1 on"),
        ({"partition-id": 0, "threads": 1.5}, "threads is a whole number from 1 on"),
        ({"partition-id": 0, "payload": "float16"}, "payload is one of float32, bfloat16"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_named(config: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=f"node config: {says}"):
        NodeSettings.of(config)
