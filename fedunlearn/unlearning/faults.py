"""The rule for a removal in which a node fails: it ends, or restarts without that node.

The answers of an incomplete round are never averaged. A basis belongs to one operator, so a node
that is dropped is dropped from the whole basis: the removal restarts with a smaller cohort, and the
result states this.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fedunlearn.errors import FederationError
from fedunlearn.federation.federation import Federation, OnFault
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.federation.training import OnRound
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.unlearning.method import Unlearned, UnlearningMethod

log = logging.getLogger(__name__)


def unlearn(
    method: UnlearningMethod[Any],
    trained: TrainedModel,
    federation: Federation,
    forget: ForgetSet,
    *,
    on_round: OnRound | None = None,
) -> Unlearned:
    """Remove a forget set by a method, under the federation's rule for nodes that fail.

    Args:
        method: The unlearning method.
        trained: The model before the removal.
        federation: All nodes. Its ``on_fault`` is the rule.
        forget: The forget set. A node that it names is never dropped, because only that node has
            the data.
        on_round: See UnlearningMethod. It is also called for the rounds of attempts that failed.

    Returns:
        The model after the removal; its status and ``details["dropped"]`` name each node that was
        dropped and the reason.

    Raises:
        FederationError: A node failed that cannot be dropped, or no other node of the retain set is
            left.
    """
    dropped: dict[int, str] = {}
    while True:
        try:
            unlearned = method.unlearn(trained, federation, forget, on_round=on_round)
        except FederationError as error:
            left = set(federation.nodes) - set(error.nodes) - forget.leavers
            known = error.nodes and set(error.nodes) <= set(federation.nodes)
            if federation.on_fault is OnFault.ABORT or not known or not left:
                raise
            if forget.leavers & set(error.nodes):
                raise
            log.warning("%s; the basis begins again without it", error)
            dropped |= dict.fromkeys(error.nodes, str(error))
            federation = federation.without(error.nodes)
            continue
        return _with_dropped(unlearned, dropped) if dropped else unlearned


def _with_dropped(unlearned: Unlearned, dropped: Mapping[int, str]) -> Unlearned:
    names = ", ".join(str(node) for node in sorted(dropped))
    details = {"dropped": {str(node): reason for node, reason in sorted(dropped.items())}}
    return replace(
        unlearned,
        status=f"{unlearned.status}; without node {names}, which failed",
        details=dict(unlearned.details) | details,
    )
