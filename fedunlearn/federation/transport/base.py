"""The interface of transports, which carry questions to nodes and return their answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from fedunlearn import errors
from fedunlearn.questions.question import Answer, Question


class Transport(Protocol):
    """A transport, for which one broadcast is one round."""

    def ask(
        self, question: Question, nodes: Sequence[int], /, *, deadline_s: float
    ) -> Iterator[Answer]:
        """Send a question to nodes and yield their answers in order of arrival.

        Args:
            question: The question.
            nodes: The nodes that must answer.
            deadline_s: Seconds after which absent answers count as missing.

        Yields:
            One answer per node, in no particular order; fewer where the deadline has passed.

        Raises:
            NodeFailedError: A node answered with an error. An InputError is raised instead where
                the node reported one.
        """
        ...


def node_failure(
    node: int, kind: str, message: str, who: str | None = None
) -> errors.FedunlearnError:
    """Return the server's exception for a failure that a node reported.

    Args:
        node: Number of the node that failed.
        kind: Class name of the node's exception.
        message: The node's message, which contains nothing of its data.
        who: Name of the node, where it has no number yet.

    Returns:
        The same class where it is one of this package's that reports a fault of the input, else
        NodeFailedError.
    """
    known = getattr(errors, kind, errors.NodeFailedError)
    text = f"{who or f'node {node}'}: {message}"
    if issubclass(known, errors.InputError | errors.NonFiniteError):
        error: errors.FedunlearnError = known(text)
        return error
    return errors.NodeFailedError(text, nodes=() if node < 0 else (node,))
