"""The quality of a model, from the sums that nodes answer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Evaluation:
    """The quality of one model on some examples.

    Attributes:
        loss: Mean loss, without a regulariser.
        accuracy: Share of the examples with a class that are classified correctly; None without
            any.
        examples: Number of examples.
    """

    loss: float
    accuracy: float | None
    examples: int

    @classmethod
    def of(cls, sums: Tensor) -> Evaluation | None:
        """Return the evaluation for sums (4,) of an Evaluations answer; None without examples."""
        loss, right, compared, examples = sums.tolist()
        if not examples:
            return None
        return cls(loss / examples, right / compared if compared else None, round(examples))


@dataclass(frozen=True)
class Evaluated:
    """The quality of one model on the examples of a part, and on held-out examples.

    Attributes:
        own: Evaluation on the examples of the part; None without any.
        held_out: Evaluation on the examples that nodes hold out of training and that belong to the
            part; for the forget set those of classes that are removed on all nodes. None without
            any.
    """

    own: Evaluation | None
    held_out: Evaluation | None
