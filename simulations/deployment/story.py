"""A deletion on a deployment: the service beside the SuperLink, a node's own key, a receipt."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fedunlearn.errors import ServiceError
from fedunlearn.requests.keys import PrivateKey, PublicKey
from fedunlearn.requests.receipts import verify_receipt
from fedunlearn.requests.statement import node_scope
from fedunlearn.rpc.v1 import deletion_pb2 as pb
from fedunlearn.service.client import DeletionClient
from fedunlearn.service.state import open_state

OPERATOR = "operator"


@dataclass(frozen=True)
class Told:
    """What became of the request.

    Attributes:
        state: In the end.
        reason: Why, where it failed.
        lines: When what happened.
    """

    state: str
    reason: str
    lines: list[str]


def furnish(state: Path, keys: Path, nodes: list[str]) -> None:
    """Make the service's state folder: the nodes' enrolment keys are those of their owners.

    Args:
        state: The folder.
        keys: Where ``NODE.key`` and ``NODE.pub`` are; the operator's is made there.
        nodes: Names, as the data have them.
    """
    operator = PrivateKey.generate()
    operator.write(keys / f"{OPERATOR}.key")
    state.mkdir()
    (state / "service.toml").write_text(
        'federation = "deployment"\nrequire-approval = true\n'
        f'tls-certificate = "{keys / "server.crt"}"\ntls-key = "{keys / "server.key"}"\n'
    )
    with open_state(state) as opened:
        now = datetime.now(UTC)
        opened.store.register_key(OPERATOR, "operator", operator.public, now=now)
        for node in nodes:
            key = PublicKey.read(keys / f"{node}.pub")
            opened.store.register_key(node, "owner", key, (node,), now=now)


def leave(
    address: str,
    keys: Path,
    node: str,
    out: Path,
    issuer: Path,
    limit_s: float,
    alive: Callable[[], None],
) -> Told:
    """Let a node ask to leave, approve it, wait until it is done, verify and keep the receipt.

    Args:
        address: Of the service.
        keys: Of the node, of the operator, and ``ca.crt``.
        node: Its name.
        out: Where ``receipt.json`` and ``issuer.pub`` go.
        issuer: The issuer's public key.
        limit_s: How long to wait, in seconds.
        alive: Raises where a process has ended that should not.

    Returns:
        What became of it.

    Raises:
        ServiceError: The service refuses, or is not there.
    """
    trusted = (keys / "ca.crt").read_bytes()
    owner, operator = (
        DeletionClient(address, PrivateKey.read(keys / f"{who}.key"), root_certificates=trusted)
        for who in (node, OPERATOR)
    )
    end = time.monotonic() + limit_s
    while True:  # the worker registers the model once it has begun
        try:
            filed = owner.create(node_scope([node]))
            break
        except ServiceError as error:
            if error.reason != "MODEL_UNKNOWN" or time.monotonic() > end:
                raise
            alive()
            time.sleep(0.2)
    operator.approve(filed.id)
    while True:
        found = owner.get(filed.id)
        if found.state in (pb.STATE_SUCCEEDED, pb.STATE_FAILED) or time.monotonic() > end:
            break
        alive()
        time.sleep(0.2)
    lines = [
        f"{_seconds(filed, event):6.1f} s  {_what(event):<18} {event.actor}"
        for event in (owner.watch(filed.id) if found.state == pb.STATE_SUCCEEDED else ())
    ]
    if found.state == pb.STATE_SUCCEEDED:
        key = PublicKey.read(issuer)
        receipt = owner.receipt(filed.id)
        verified = verify_receipt(receipt, key)
        (out / "receipt.json").write_bytes(receipt)
        (out / "issuer.pub").write_text(key.pem)
        lines.append(f"the receipt verifies; model {verified.model}")
    owner.close()
    operator.close()
    return Told(pb.State.Name(found.state).removeprefix("STATE_"), found.reason, lines)


def leaver(results: Path) -> str:
    """Return the node that the comparison's first request removes."""
    (first, *_) = json.loads(results.read_text())["requests"]
    return str(first["forget"]["nodes"][0])


def _seconds(filed: pb.Deletion, event: pb.Event) -> float:
    return float((event.time.ToDatetime() - filed.created.ToDatetime()).total_seconds())


def _what(event: pb.Event) -> str:
    stage = pb.Stage.Name(event.stage).removeprefix("STAGE_")
    return pb.State.Name(event.state).removeprefix("STATE_") if not event.stage else stage
