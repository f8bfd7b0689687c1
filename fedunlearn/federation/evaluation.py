"""How well a model does, by the sums that nodes answer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Evaluation:
    """How well one model does on some examples.

    Attributes:
        loss: Mean loss, without a regulariser.
        accuracy: Share of those with a class that are classified right; None where none has one.
        examples: How many.
    """

    loss: float
    accuracy: float | None
    examples: int

    @classmethod
    def of(cls, sums: Tensor) -> Evaluation | None:
        """Return it from sums (4,), as Evaluations are answered; None without examples."""
        loss, right, compared, examples = sums.tolist()
        if not examples:
            return None
        return cls(loss / examples, right / compared if compared else None, round(examples))


@dataclass(frozen=True)
class Evaluated:
    """How well one model does on the examples of a part, and on held-out ones.

    Attributes:
        own: On the part's; None without any.
        held_out: On those that nodes hold out of training and that belong to the part: of the
            forget set the ones of classes that leave everywhere; None without any.
    """

    own: Evaluation | None
    held_out: Evaluation | None
