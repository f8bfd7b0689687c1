"""The distance from a retrained model that a removal is expected to end at."""

from __future__ import annotations


def after_step(share: float, leverage: float) -> float:
    """Return the expected distance after a step, in floors."""
    return 10.0 * leverage


def after_rounds(share: float, leverage: float, done: float | None) -> float:
    """Return the expected distance after the rest of training from a checkpoint, in floors."""
    return 10.0 * leverage
