"""Predictions of every model on the forget set, for the report of a simulation.

They contain examples of the nodes, which only a simulation may show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ExamplePredictions:
    """One example of the forget set with the prediction of each model.

    Attributes:
        image: (height, width) grey in [0, 1]; None where the inputs are not images.
        target: Number of its class.
        probabilities: Model name to (classes,).
    """

    image: Tensor | None
    target: int
    probabilities: Mapping[str, Tensor]


@dataclass(frozen=True)
class ForgetSetPredictions:
    """Predictions on the forget set, before and after the removal.

    Attributes:
        classes: Numbers of the forget set's classes, ascending.
        counts: Number of examples of each of these classes.
        mean_probabilities: Model name to (classes of the forget set, all classes): the mean
            prediction over the examples of each class.
        examples: The examples on which trained and retrained model differ most, at most one of
            each class until every class has one.
        names: The names of all classes, by number; empty where the numbers are the names.
    """

    classes: tuple[int, ...]
    counts: tuple[int, ...]
    mean_probabilities: Mapping[str, Tensor]
    examples: tuple[ExamplePredictions, ...]
    names: tuple[str, ...] = ()

    def name(self, number: int) -> str:
        """Return the name of a class."""
        return self.names[number] if number < len(self.names) else str(number)
