"""The schema of tuning.json: the trials of every method of a scenario."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from fedunlearn.reporting.documents import JsonObject, Measured, Sparse, Versioned


class Trial(Sparse):
    """One point of a method's grid.

    Attributes:
        method: Name of the method in the scenario.
        settings: The keys that were tried, with their values.
        score: The mean of the scores; absent where one of them is not known.
        scores: One a seed: mean over requests of forget JS plus retain JS, in nats; null where the
            model's predictions are not numbers.
    """

    method: str
    settings: JsonObject
    score: Measured = None
    scores: tuple[Measured, ...]


class Tuning(Versioned):
    """tuning.json: all trials, best first within each method.

    Attributes:
        schema_version: Version of this schema.
        trials: The trials, methods in the scenario's order.
    """

    version: ClassVar[int] = 1
    what: ClassVar[str] = "tuning"

    schema_version: Literal[1] = Field(1, alias="schema")
    trials: tuple[Trial, ...]
