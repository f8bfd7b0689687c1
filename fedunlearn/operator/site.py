"""The operator's knowledge of a federation: names, model and method, but no data."""

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

# Trains the first model in an open federation, with the given recorders.
TrainFirst = Callable[[Federation, Sequence[Recordable]], TrainedModel]


@dataclass(frozen=True)
class Site:
    """The operator's description of a federation.

    Attributes:
        nodes: Names of the nodes, in the order of their internal numbers.
        labels: Names of the classes, in the order of their internal numbers.
        model: Function that builds the network of every node.
        name: Name of the method in the operator's settings.
        method: Method that removes.
        recovery_rounds: Rounds of ordinary training on the retain set after each removal.
        uses_kept: Whether the training of a user's app excludes removed data by calling
            ``forgetting.kept``, by node; None if nodes exclude them by themselves.
        carried: Names in ``state_dict`` of the tensors that are sent to nodes besides the weights;
            None for all in a model file.
        train: Function that trains the first model; None if there must be a model already.
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
        """Return the names of nodes and classes, in the order of their internal numbers."""
        return {"nodes": list(self.nodes), "classes": list(self.labels)}

    def rule_of(self, scopes: Iterable[Scope]) -> ForgetSet:
        """Return the forget set of requests of one kind that are removed together.

        Args:
            scopes: Scopes of the requests.

        Returns:
            The forget set, with internal numbers.

        Raises:
            UnknownNameError: There is no node or class of that name.
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
