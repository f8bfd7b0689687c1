"""What an operator knows of a federation: names, the model, the method; never the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import Recordable, TrainedModel
from fedunlearn.names import Names
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.requests.deletion import Scope, ScopeKind
from fedunlearn.unlearning.method import UnlearningMethod

# Trains the first model in an open federation, and records what is asked for.
TrainFirst = Callable[[Federation, Sequence[Recordable]], TrainedModel]


@dataclass(frozen=True)
class Site:
    """A federation as its operator knows it.

    Attributes:
        nodes: The names of the nodes, in the order of the numbers used inside.
        labels: The names of the classes, in the order of the numbers used inside.
        model: Builds the network that every node has.
        name: Of the method, as the operator calls it.
        method: By which requests are removed.
        recovery_rounds: Of ordinary training on what stays, after each removal.
        uses_kept: By the name of each node of a user's app, whether its training leaves out what
            was removed (``kept``); None where nodes do so by themselves.
        carried: Names in ``state_dict`` of what nodes are sent beside the weights; None for all
            that a model file holds.
        train: Trains the first model; None where it must be there already.
    """

    nodes: Names
    labels: Names
    model: Callable[[], nn.Module]
    name: str
    method: UnlearningMethod[Any]
    recovery_rounds: int = 0
    uses_kept: Mapping[str, bool] | None = None
    carried: frozenset[str] | None = None
    train: TrainFirst | None = field(default=None, compare=False)

    def as_document(self) -> dict[str, list[str]]:
        """Return the names of nodes and classes, in the order of the numbers used inside."""
        return {"nodes": list(self.nodes), "classes": list(self.labels)}

    def rule_of(self, scopes: Iterable[Scope]) -> ForgetSet:
        """Return the rule by which nodes find what some requests of one kind remove together.

        Args:
            scopes: What the requests name.

        Returns:
            The rule, by numbers.

        Raises:
            UnknownNameError: There is no node or class of a name.
        """
        all_of = list(scopes)
        node, label = self.nodes.place, self.labels.place
        match all_of[0].kind:
            case ScopeKind.NODE:
                return ForgetSet.of_nodes(*(node(name) for one in all_of for name in one.nodes))
            case ScopeKind.CLASS:
                labels = (label(name) for one in all_of for name in one.labels)
                return ForgetSet.of_class(*labels, on=map(node, all_of[0].nodes))
        places: dict[int, list[int]] = {}
        for scope in all_of:
            places.setdefault(node(scope.nodes[0]), []).extend(scope.records)
        return ForgetSet.of_records(places)
