"""What became of a removal in a user's app, in words and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedunlearn.federation.evaluation import Evaluation
from fedunlearn.names import listed


@dataclass(frozen=True)
class Outcome:
    """How well a model does, by the nodes' own sums.

    Attributes:
        retain: On what stays; None where nothing does.
        forget: On what leaves; None where nothing does.
        held_out: On what the nodes that stay hold out of training; None without any.
    """

    retain: Evaluation | None
    forget: Evaluation | None
    held_out: Evaluation | None


@dataclass(frozen=True)
class RemovalResult:
    """What became of a removal.

    Attributes:
        forget: What was removed, in words.
        method: Name of the method.
        settings: Of the method, JSON-able.
        status: How it went, with the remedy where there is one.
        claim: What may be said of the model: EMPIRICAL, or EXACT_RETRAIN.
        nodes: The names of the nodes that took part.
        missing: The names of those that failed, and were left out.
        removed: By node, how many of its examples are out of use now.
        before: How well the model did before.
        after: How well it does now.
        statistics: What became of running statistics, as BatchNorm's.
        recovery_rounds: Of the user's own training on what stays.
        rounds: Of communication, all together.
        bytes_up: From nodes to the server.
        bytes_down: From the server to nodes.
        kept: By node, whether its training asks what may be trained on (``forgetting.kept``).
        remarks: What was assumed, or is to be known.
        details: What the method knows of its own work.
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
        """Say in a few lines what was done and how the model does."""
        removed = self.before.forget.examples if self.before.forget is not None else 0
        lines = [
            f"removed {self.forget} ({removed} examples) by {self.method}: {self.status}",
            f"  {self.rounds} rounds with {listed('node', self.nodes)}; {self.claim}",
        ]
        for name, what in (
            ("what left", "forget"),
            ("what stays", "retain"),
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
