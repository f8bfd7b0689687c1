"""What a node says of itself when it enrols."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Enrolment:
    """What a node says of itself.

    Attributes:
        node: Its number.
        examples: How many it holds that were not removed.
        root: Merkle root of its commitments to its records; None where it keeps none.
        records: How many it committed to, removed ones included.
        left: Whether it has left as a whole.
    """

    node: int
    examples: int
    root: bytes | None = None
    records: int = 0
    left: bool = False
