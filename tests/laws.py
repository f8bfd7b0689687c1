"""Profiles of Hypothesis: the same examples in every run of the suite, new ones with 'make fuzz'.

A pull request must not fail by luck, so that the suite draws the same examples everywhere. The
random search for examples that break a law runs apart (tests/fuzz.py), from a seed that it prints.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from hypothesis import register_random, settings

FUZZ_SEED = "FEDUNLEARN_FUZZ_SEED"
MORE_EXAMPLES = 4


class _Torch:
    """torch's generator as Hypothesis sets random generators before each example."""

    def seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def getstate(self) -> Any:
        return torch.get_rng_state()

    def setstate(self, state: Any) -> None:
        torch.set_rng_state(state)


TORCH = _Torch()  # Hypothesis keeps only a weak reference


def load_profile() -> None:
    """Register the profiles, and load the one that the environment asks for."""
    register_random(TORCH)
    settings.register_profile("ci", derandomize=True, database=None, deadline=None, print_blob=True)
    settings.register_profile(
        "fuzz", derandomize=False, database=None, deadline=None, print_blob=True, max_examples=400
    )
    settings.load_profile("fuzz" if FUZZ_SEED in os.environ else "ci")


def laws(examples: int) -> settings:
    """Return settings with so many examples, and with several times as many in a random search."""
    return settings(max_examples=examples * (1 if settings().derandomize else MORE_EXAMPLES))


def seed_of_the_search() -> int:
    """Return the seed for tests that draw by themselves: 0 but in a random search."""
    return int(os.environ.get(FUZZ_SEED, "0"))
