"""What owners and operators sign, and the scopes of requests."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from datetime import datetime

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from fedunlearn.commitments import Commitments
from fedunlearn.names import in_order
from fedunlearn.requests.deletion import Scope, ScopeKind
from fedunlearn.requests.keys import PrivateKey
from fedunlearn.rpc.v1 import deletion_pb2 as pb

DELETION_TYPE = "application/vnd.fedunlearn.deletion.v1"
CALL_TYPE = "application/vnd.fedunlearn.call.v1"
NONCE_BYTES = 16


def sign_deletion(
    key: PrivateKey,
    *,
    audience: str,
    federation: str,
    model: str,
    request_id: str,
    scope: pb.Scope,
    issued: datetime,
    expires: datetime,
) -> pb.CreateDeletionRequest:
    """Ask for a removal.

    Args:
        key: The owner's.
        audience: As the service names itself.
        federation: Of which the model is.
        model: sha256 of the model file that the owner has seen, hexadecimal.
        request_id: UUID4, the owner's choice.
        scope: What is to be removed.
        issued: Now.
        expires: At most an hour later.

    Returns:
        The message to send.
    """
    content = scope.SerializeToString(deterministic=True)
    statement = pb.DeletionStatement(
        audience=audience,
        federation=federation,
        model_sha256=bytes.fromhex(model),
        request_id=request_id,
        issued=timestamp(issued),
        expires=timestamp(expires),
        scope_sha256=hashlib.sha256(content).digest(),
    )
    signed = _signed(key, DELETION_TYPE, statement.SerializeToString(deterministic=True))
    return pb.CreateDeletionRequest(statement=signed, scope=content)


def sign_call(
    key: PrivateKey,
    *,
    audience: str,
    method: str,
    request: bytes,
    issued: datetime,
    expires: datetime,
) -> bytes:
    """Sign any other call.

    Args:
        key: The caller's.
        audience: As the service names itself.
        method: As "/fedunlearn.rpc.v1.DeletionService/GetDeletion".
        request: The bytes of the request.
        issued: Now.
        expires: At most five minutes later.

    Returns:
        A Signed message's bytes, for the call's metadata.
    """
    statement = pb.CallStatement(
        audience=audience,
        method=method,
        request_sha256=hashlib.sha256(request).digest(),
        issued=timestamp(issued),
        expires=timestamp(expires),
        nonce=secrets.token_bytes(NONCE_BYTES),
    )
    payload = statement.SerializeToString(deterministic=True)
    return _signed(key, CALL_TYPE, payload).SerializeToString(deterministic=True)


def _signed(key: PrivateKey, type: str, payload: bytes) -> pb.Signed:
    return pb.Signed(payload=payload, key_id=key.public.id, signature=key.sign(type, payload))


def timestamp(moment: datetime) -> Timestamp:
    """Return a time as a message."""
    found = Timestamp()
    found.FromDatetime(moment)
    return found


def node_scope(nodes: Iterable[str]) -> pb.Scope:
    """Return the scope of all that some nodes hold, which are named as the data name them."""
    return pb.Scope(node=pb.NodeScope(nodes=sorted(nodes)))


def record_scope(node: str, commitments: Commitments, records: Iterable[int]) -> pb.Scope:
    """Return the scope of some records of a node.

    Args:
        node: Name of the one that holds them.
        commitments: Of the node.
        records: Positions in the node's committed order.

    Raises:
        IndexError: The node did not commit to so many records.
    """
    positions = sorted(records)
    outside = [index for index in positions if not 0 <= index < commitments.size]
    if outside:
        raise IndexError(f"no record {outside[0]}: the node committed to {commitments.size}")
    messages = [
        pb.Record(
            index=index, commitment=commitments.commitment(index), path=commitments.path(index)
        )
        for index in positions
    ]
    return pb.Scope(records=pb.RecordScope(node=node, records=messages))


def class_scope(labels: Iterable[str], nodes: Iterable[str] = ()) -> pb.Scope:
    """Return the scope of all examples of some classes, on some nodes; without any, on all."""
    scope = pb.Scope()
    # The field's name is a word of the language.
    getattr(scope, "class").CopyFrom(pb.ClassScope(labels=sorted(labels), nodes=sorted(nodes)))
    return scope


def scope_of(content: bytes) -> Scope:
    """Read the bytes of a scope.

    Args:
        content: Of the message Scope.

    Returns:
        The scope; what it names is in order, and each once.

    Raises:
        ValueError: They are none, or it names nothing.
    """
    try:
        message = pb.Scope.FromString(content)
    except DecodeError:
        raise ValueError("the scope is no message fedunlearn.rpc.v1.Scope") from None
    kind = message.WhichOneof("kind")
    if kind == "node":
        found = Scope(ScopeKind.NODE, nodes=in_order(message.node.nodes))
    elif kind == "records":
        part = message.records
        records = tuple(sorted({record.index for record in part.records}))
        found = Scope(ScopeKind.RECORDS, nodes=(part.node,), records=records)
    elif kind == "class":
        chosen = getattr(message, "class")
        labels, nodes = in_order(chosen.labels), in_order(chosen.nodes)
        found = Scope(ScopeKind.CLASS, nodes=nodes, labels=labels)
    else:
        raise ValueError("the scope names neither nodes nor records nor a class")
    if not found.count:
        raise ValueError(f"the scope names no {kind}; right is at least one")
    return found
