"""The result of a removal in a user's app, in words and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedunlearn.federation.evaluation import Evaluation
from fedunlearn.names import listed


@dataclass(frozen=True)
class Outcome:
    """Quality of a model, from the sums of the nodes.

    Attributes:
        retain: Evaluation on the retain set; None where it is empty.
        forget: Evaluation on the forget set; None where it is empty.
        held_out: Evaluation on the held-out examples of the nodes that stay; None without any.
    """

    retain: Evaluation | None
    forget: Evaluation | None
    held_out: Evaluation | None


@dataclass(frozen=True)
class RemovalResult:
    """The result of a removal.

    Attributes:
        forget: Description of the forget set.
        method: Name of the method.
        settings: Settings of the method, which JSON can hold.
        status: The outcome in one line, with the remedy where there is one.
        claim: The claim about the model: EMPIRICAL, EXACT, CERTIFIED or EXACT_RETRAIN.
        nodes: The names of the nodes that took part.
        missing: The names of the nodes that failed and were left out.
        removed: Number of examples of each node that are now out of use.
        before: Quality of the model before the removal.
        after: Quality of the model after the removal.
        statistics: Treatment of running statistics, as those of BatchNorm.
        recovery_rounds: Rounds of the user's own training on the retain set.
        rounds: Total rounds of communication.
        bytes_up: Bytes sent from nodes to the server.
        bytes_down: Bytes sent from the server to nodes.
        kept: Whether the training of each node calls ``forgetting.kept``.
        remarks: Assumptions, and further notes for the user.
        details: Further values that the method reports.
    """

    forget: str
    method: str
    settings: Mapping[str, Any]
    status: str
    claim: str
    nodes: tuple[str, ...]
    missing: tuple[str, ...]
    removed: Mapping[str, int]
    before: Outcome
    after: Outcome
    statistics: str
    recovery_rounds: int
    rounds: int
    bytes_up: int
    bytes_down: int
    kept: Mapping[str, bool]
    remarks: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return a few lines that state what was done and the quality of the model."""
        removed = self.before.forget.examples if self.before.forget is not None else 0
        lines = [
            f"removed {self.forget} ({removed} examples) by {self.method}: {self.status}",
            f"  {self.rounds} rounds with {listed('node', self.nodes)}; {self.claim}",
        ]
        for name, what in (
            ("forget set", "forget"),
            ("retain set", "retain"),
            ("held-out examples", "held_out"),
        ):
            pair = getattr(self.before, what), getattr(self.after, what)
            if pair[0] is not None and pair[1] is not None:
                lines.append(f"  {name}: {_change(*pair)}")
        if self.statistics != "none":
            lines.append(f"  running statistics: {self.statistics}")
        lines += [f"  note: {remark}" for remark in self.remarks]
        return "\n".join(lines)


def _change(before: Evaluation, after: Evaluation) -> str:
    text = f"loss {before.loss:.3f} to {after.loss:.3f}"
    if before.accuracy is not None and after.accuracy is not None:
        text += f", accuracy {100 * before.accuracy:.1f} to {100 * after.accuracy:.1f} %"
    return text
