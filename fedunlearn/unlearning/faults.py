"""What becomes of a removal where a node fails: it ends, or begins anew without that node.

What is left of a round is never averaged. A basis belongs to one operator, so that a node which is
dropped is dropped from all of it: the job begins again with a smaller cohort, and the result says
so.
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
    """Let a method remove a forget set, by the federation's rule for nodes that fail.

    Args:
        method: How.
        trained: The model before.
        federation: All nodes; its ``on_fault`` is the rule.
        forget: What leaves. Who leaves is never dropped, for only it knows what leaves.
        on_round: See UnlearningMethod; hears of the attempts that failed too.

    Returns:
        The model after; its status and ``details["dropped"]`` name who was dropped and why.

    Raises:
        FederationError: A node failed that cannot be dropped, or the last that stays.
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
        return _said(unlearned, dropped) if dropped else unlearned


def _said(unlearned: Unlearned, dropped: Mapping[int, str]) -> Unlearned:
    who = ", ".join(str(node) for node in sorted(dropped))
    details = {"dropped": {str(node): reason for node, reason in sorted(dropped.items())}}
    return replace(
        unlearned,
        status=f"{unlearned.status}; without node {who}, which failed",
        details=dict(unlearned.details) | details,
    )
