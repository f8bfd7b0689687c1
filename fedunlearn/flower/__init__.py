"""Flower apps that can remove data from their model.

A user's own app calls ``unlearnable`` on its nodes, and ``unlearning`` and ``RememberingStrategy``
on its server. The rest of the package runs scenarios on Flower.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedunlearn.flower.own_client import unlearnable as unlearnable
    from fedunlearn.flower.own_server import unlearning as unlearning
    from fedunlearn.flower.remembering_strategy import RememberingStrategy as RememberingStrategy
    from fedunlearn.flower.sessions import SessionSettings as SessionSettings

_HOME = {
    "RememberingStrategy": "remembering_strategy",
    "SessionSettings": "sessions",
    "unlearnable": "own_client",
    "unlearning": "own_server",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fedunlearn.flower' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fedunlearn.flower.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
