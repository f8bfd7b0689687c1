"""What the report shows of single predictions; simulations only, since it shows data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ForgottenExample:
    """One example of the forget set and what each model says about it.

    Attributes:
        image: (height, width) grey in [0, 1]; None where the inputs are not images.
        target: Its label.
        probabilities: Model name to (classes,).
    """

    image: Tensor | None
    target: int
    probabilities: Mapping[str, Tensor]


@dataclass(frozen=True)
class Evidence:
    """Predictions on the forget set, before and after.

    Attributes:
        classes: Numbers of the forget set's classes, ascending.
        counts: How many examples each has.
        mean_probabilities: Model name to (classes of the forget set, all classes): the mean
            prediction over the examples of each label.
        examples: Those on which trained and retrained model differ most, at most one a label
            until every label has one.
        names: The names of all classes, by number; empty where their numbers are.
    """

    classes: tuple[int, ...]
    counts: tuple[int, ...]
    mean_probabilities: Mapping[str, Tensor]
    examples: tuple[ForgottenExample, ...]
    names: tuple[str, ...] = ()

    def name(self, number: int) -> str:
        """Return the name of a class."""
        return self.names[number] if number < len(self.names) else str(number)
