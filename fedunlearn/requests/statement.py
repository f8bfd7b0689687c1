"""The statements that owners and operators sign, and the scopes of requests."""

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
    """Sign a deletion request.

    Args:
        key: Private key of the owner.
        audience: Name of the service.
        federation: Name of the federation that the model belongs to.
        model: sha256 of the model file that the owner has seen, hexadecimal.
        request_id: UUID4 that the owner has chosen.
        scope: The data to remove.
        issued: Time of the signature.
        expires: End of the statement's validity, at most an hour later.

    Returns:
        The request to send.
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
    """Sign a call of any method other than CreateDeletion.

    Args:
        key: Private key of the caller.
        audience: Name of the service.
        method: Full name of the method, as "/fedunlearn.rpc.v1.DeletionService/GetDeletion".
        request: The serialized request.
        issued: Time of the signature.
        expires: End of the statement's validity, at most five minutes later.

    Returns:
        A serialized Signed message for the call's metadata.
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
    """Return a time as a protobuf message."""
    found = Timestamp()
    found.FromDatetime(moment)
    return found


def node_scope(nodes: Iterable[str]) -> pb.Scope:
    """Return the scope of whole nodes, given by the names that the data have for them."""
    return pb.Scope(node=pb.NodeScope(nodes=sorted(nodes)))


def record_scope(node: str, commitments: Commitments, records: Iterable[int]) -> pb.Scope:
    """Return the scope of some records of a node.

    Args:
        node: Name of the node that holds the records.
        commitments: Commitments of the node.
        records: Positions in the node's committed order.

    Raises:
        IndexError: A position is not among the records that the node committed to.
    """
    positions = sorted(records)
    outside = [index for index in positions if not 0 <= index < commitments.size]
    if outside:
        raise IndexError(
            f"there is no record {outside[0]}: the node committed to {commitments.size}"
        )
    messages = [
        pb.Record(
            index=index, commitment=commitments.commitment(index), path=commitments.path(index)
        )
        for index in positions
    ]
    return pb.Scope(records=pb.RecordScope(node=node, records=messages))


def class_scope(labels: Iterable[str], nodes: Iterable[str] = ()) -> pb.Scope:
    """Return the scope of all examples of some classes, on the given nodes or, if none, on all."""
    scope = pb.Scope()
    # The field's name is a keyword of Python.
    getattr(scope, "class").CopyFrom(pb.ClassScope(labels=sorted(labels), nodes=sorted(nodes)))
    return scope


def scope_of(content: bytes) -> Scope:
    """Parse a serialized scope.

    Args:
        content: The serialized message Scope.

    Returns:
        The scope; its names and positions are sorted and unique.

    Raises:
        ValueError: The bytes are not a scope, or the scope is empty.
    """
    try:
        message = pb.Scope.FromString(content)
    except DecodeError:
        raise ValueError("the scope is not a message fedunlearn.rpc.v1.Scope") from None
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
