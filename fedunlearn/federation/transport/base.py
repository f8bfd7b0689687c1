"""What carries questions to nodes and answers back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from fedunlearn import errors
from fedunlearn.questions.question import Answer, Question


class Transport(Protocol):
    """One broadcast is one round."""

    def ask(
        self, question: Question, nodes: Sequence[int], /, *, deadline_s: float
    ) -> Iterator[Answer]:
        """Ask nodes and yield their answers as they come.

        Args:
            question: What to ask.
            nodes: Whom to ask.
            deadline_s: Seconds until answers that have not come count as missing.

        Yields:
            One answer a node, in no particular order; fewer where the deadline has passed.

        Raises:
            NodeFailedError: A node answered with an error; an InputError where that is what it
                met.
        """
        ...


def node_failure(
    node: int, kind: str, message: str, who: str | None = None
) -> errors.FedunlearnError:
    """Make the server's exception from what a node reported.

    Args:
        node: Who failed.
        kind: Class name of the node's exception.
        message: What the node said; nothing of its data.
        who: What the node is called, where it has no number yet.

    Returns:
        The same class where it is one of ours that blames the input, else NodeFailedError.
    """
    known = getattr(errors, kind, errors.NodeFailedError)
    said = f"{who or f'node {node}'}: {message}"
    if issubclass(known, errors.InputError | errors.NonFiniteError):
        error: errors.FedunlearnError = known(said)
        return error
    return errors.NodeFailedError(said, nodes=() if node < 0 else (node,))
