"""Calls that must be refused, each with its status code and its reason."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.message import Message

from fedunlearn.requests.statement import (
    CALL_TYPE,
    DELETION_TYPE,
    class_scope,
    record_scope,
    timestamp,
)
from fedunlearn.rpc.v1 import deletion_pb2 as pb
from tests.deletion_house import COMMITMENTS, KEYS, MOST_RECORDS, now
from tests.deletion_messages import (
    CALL_KEY,
    Change,
    Names,
    Sent,
    calling,
    creating,
    setting,
    with_unknown_field,
)

Build = Callable[[Names], Sent]
UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"
MIB = 2**20
INVALID, DENIED, UNAUTHENTICATED = "INVALID_ARGUMENT", "PERMISSION_DENIED", "UNAUTHENTICATED"
PRECONDITION, EXHAUSTED = "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"


@dataclass(frozen=True)
class Case:
    """A call and what it must be answered with; without a reason where gRPC itself answers."""

    code: str
    reason: str
    build: Build
    compressed: bool = False


def _statement(**values: Any) -> Build:
    return lambda names: creating(names, statement=setting(**values))


def _envelope(**values: Any) -> Build:
    return lambda names: creating(names, envelope=setting(**values))


def _scope(scope: pb.Scope | bytes, key: str = "alice") -> Build:
    return lambda names: creating(names, scope, key=key)


def _records(change: Change, node: int = 0, records: Any = (3, 5), key: str = "alice") -> Build:
    def build(names: Names) -> Sent:
        scope = record_scope(node, COMMITMENTS[node], records)
        change(scope.records)
        return creating(names, scope, key=key)

    return build


def _raw(method: str, body: bytes) -> Build:
    return lambda names: Sent(method, body)


def _class(labels: list[int], nodes: list[int]) -> bytes:
    scope = pb.Scope()
    getattr(scope, "class").CopyFrom(pb.ClassScope(labels=labels, nodes=nodes))
    return scope.SerializeToString()


def _nodes(*nodes: int) -> pb.Scope:
    return pb.Scope(node=pb.NodeScope(nodes=nodes))


def _ran(cases: Mapping[str, Build], code: str, reason: str) -> Iterator[tuple[str, Case]]:
    for name, build in cases.items():
        yield name, Case(code, reason, build)


IDS = {
    "upper case": str(uuid.UUID(int=2**127 - 1, version=4)).upper(),
    "without hyphens": uuid.uuid4().hex,
    "of version 1": "d9428888-122b-11e1-b85c-61cd3cbb3210",
    "of another variant": "d9428888-122b-41e1-c85c-61cd3cbb3210",
    "in braces": f"{{{uuid.uuid4()}}}",
    "as URN": f"urn:uuid:{uuid.uuid4()}",
    "with a space": f" {uuid.uuid4()}",
    "with a newline": f"{uuid.uuid4()}\n",
    "of digits beyond ASCII": str(uuid.UUID(int=2**127 - 1, version=4)).replace("7", "\u0667"),
    "empty": "",
}
TIMES = {
    "missing": None,
    "before 2000": datetime(1999, 12, 31, tzinfo=UTC),
    "after 2200": datetime(2201, 1, 1, tzinfo=UTC),
}
TEXTS = {
    "empty": "",
    "blank": "  ",
    "two lines": "a\nb",
    "with NUL": "a\0b",
    "long": "a" * 201,
}


def _bad_time(**values: int) -> Change:
    def change(message: Any) -> None:
        message.issued.Clear()
        for name, value in values.items():
            setattr(message.issued, name, value)

    return change


FIELDS_OF_CREATE: dict[str, Build] = {
    "an empty request": _raw("CreateDeletion", b""),
    "no statement": lambda n: creating(n, outer=setting(statement=None)),
    "no scope": lambda n: creating(n, outer=setting(scope=None)),
    "an unknown field": lambda n: creating(n, outer=with_unknown_field),
    "an unknown field beside the signature": lambda n: creating(n, envelope=with_unknown_field),
    "an unknown field in the statement": lambda n: creating(n, statement=with_unknown_field),
    "an empty payload": _envelope(payload=b""),
    "a large payload": _envelope(payload=b"a" * 8193),
    "a key id in upper case": _envelope(key_id="A" * 64),
    "a short key id": _envelope(key_id="a" * 63),
    "no signature": _envelope(signature=b""),
    "a long signature": _envelope(signature=b"a" * 257),
    "a payload that is no statement": lambda n: creating(n, payload=b"\xff\xff\xff"),
    "a payload of wrong UTF-8": lambda n: creating(n, payload=b"\x0a\x02\xc3\x28"),
    "a scope that is no message": _scope(b"\xff\xff\xff"),
    "a digest of 31 bytes": _statement(model_sha256=b"a" * 31),
    "no model": _statement(model_sha256=None),
    "a scope's digest of 33 bytes": _statement(scope_sha256=b"a" * 33),
    "negative nanoseconds": lambda n: creating(n, statement=_bad_time(seconds=1, nanos=-1)),
    "a second of nanoseconds": lambda n: creating(
        n, statement=_bad_time(seconds=int(now().timestamp()), nanos=10**9)
    ),
    "a time beyond all calendars": lambda n: creating(n, statement=_bad_time(seconds=2**62)),
    "an unknown kind of scope": _scope(b"\xc2\x3e\x02hi"),
    "no node": _scope(pb.Scope(node=pb.NodeScope())),
    "a node twice": _scope(_nodes(0, 0)),
    "nodes out of order": _scope(_nodes(1, 0)),
    "too many nodes": _scope(_nodes(*range(1001))),
    "no record": _records(setting(records=None)),
    "a record twice": _records(lambda scope: scope.records[1].CopyFrom(scope.records[0])),
    "records out of order": _records(lambda scope: scope.records.sort(key=lambda r: -r.index)),
    "too many records": _records(lambda scope: None, records=range(MOST_RECORDS + 1)),
    "a commitment of 31 bytes": _records(
        lambda scope: setting(commitment=b"a" * 31)(scope.records[0])
    ),
    "a hash of 31 bytes": _records(lambda scope: scope.records[0].path.append(b"a" * 31)),
    "a path of 65 hashes": _records(lambda scope: setting(path=[b"a" * 32] * 65)(scope.records[0])),
    "an index beyond all": _records(lambda scope: setting(index=2**63)(scope.records[1])),
    "an unknown field in a record": _records(lambda s: with_unknown_field(s.records[0])),
    "no label": _scope(_class([], [0])),
    "a label twice": _scope(_class([3, 3], [0])),
    "labels out of order": _scope(_class([3, 1], [0])),
    "too many labels": _scope(_class(list(range(1001)), [0])),
    "a class's node twice": _scope(_class([1], [0, 0])),
    "a class's nodes out of order": _scope(_class([1], [1, 0])),
    **{f"a request id {name}": _statement(request_id=value) for name, value in IDS.items()},
    **{f"issued {name}": _statement(issued=value) for name, value in TIMES.items()},
    **{f"expires {name}": _statement(expires=value) for name, value in TIMES.items()},
    **{f"an audience {name}": _statement(audience=value) for name, value in TEXTS.items()},
    **{f"a federation {name}": _statement(federation=value) for name, value in TEXTS.items()},
}


def _request(method: str, names: Names) -> Message:
    """Return a valid request for any method but CreateDeletion."""
    due = timestamp(now() + timedelta(days=60))
    return {
        "GetServiceInfo": pb.GetServiceInfoRequest(),
        "GetDeletion": pb.GetDeletionRequest(id=names.pending),
        "ListDeletions": pb.ListDeletionsRequest(),
        "CancelDeletion": pb.CancelDeletionRequest(id=names.pending),
        "ApproveDeletion": pb.ApproveDeletionRequest(id=names.awaiting),
        "RejectDeletion": pb.RejectDeletionRequest(id=names.pending, reason="why not"),
        "RetryDeletion": pb.RetryDeletionRequest(id=names.pending),
        "ExtendDeletion": pb.ExtendDeletionRequest(id=names.pending, due=due, reason="many"),
        "WatchDeletion": pb.WatchDeletionRequest(id=names.cancelled),
        "GetReceipt": pb.GetReceiptRequest(id=names.done),
    }[method]


READS = ("GetDeletion", "WatchDeletion", "GetReceipt")
DECISIONS = ("ApproveDeletion", "RejectDeletion", "RetryDeletion", "ExtendDeletion")
CALLS = (*READS, "ListDeletions", "CancelDeletion", *DECISIONS)
METHODS = ("GetServiceInfo", *CALLS)


def valid(method: str, names: Names, key: str = "op") -> Sent:
    """Return a valid call of any method."""
    if method == "CreateDeletion":
        return creating(names)
    return calling(names, method, _request(method, names), key=key)


def _changed(method: str, key: str = "op", **changes: Any) -> Build:
    return lambda names: calling(names, method, _request(method, names), key=key, **changes)


def _with(method: str, key: str = "op", **values: Any) -> Build:
    def build(names: Names) -> Sent:
        request = _request(method, names)
        setting(**values)(request)
        return calling(names, method, request, key=key)

    return build


def _credentials(method: str) -> Iterator[tuple[str, Case]]:
    """Yield what can be wrong with the credential of a call."""

    def bare(names: Names, *metadata: tuple[str, bytes]) -> Sent:
        return Sent(method, _request(method, names).SerializeToString(), metadata)

    malformed: dict[str, Build] = {
        "a credential that is no message": lambda n: bare(n, (CALL_KEY, b"\xff\xff")),
        "an empty credential": lambda n: bare(n, (CALL_KEY, b"")),
        "two credentials": lambda n: bare(n, *valid(method, n).metadata * 2),
        "a credential's unknown field": _changed(method, envelope=with_unknown_field),
        "a short nonce": _changed(method, statement=setting(nonce=b"a" * 15)),
        "no statement in it": _changed(method, payload=b"\xff\xff"),
    }
    invalid: dict[str, Build] = {
        "another's key id": _changed(method, envelope=setting(key_id=KEYS["alice"].public.id)),
        "a type of another purpose": _changed(method, type=DELETION_TYPE),
        "a changed signature": _changed(method, envelope=_flip),
        "a credential of another method": _changed(
            method, statement=setting(method="/fedunlearn.rpc.v1.DeletionService/GetNothing")
        ),
        "a credential of another request": _changed(
            method, statement=setting(request_sha256=b"a" * 32)
        ),
    }
    yield "no credential", Case(UNAUTHENTICATED, "CREDENTIAL_MISSING", bare)
    yield from _ran(malformed, UNAUTHENTICATED, "CREDENTIAL_MALFORMED")
    yield from _ran(invalid, UNAUTHENTICATED, "SIGNATURE_INVALID")
    yield from _ran(
        {
            "an expired credential": _changed(method, after=-300.0),
            "a credential that ends before it begins": _changed(method, lasts=-30.0),
        },
        UNAUTHENTICATED,
        "SIGNATURE_EXPIRED",
    )
    late = _changed(method, after=120.0)
    yield "a credential for later", Case(UNAUTHENTICATED, "SIGNATURE_NOT_YET_VALID", late)
    long = _changed(method, lasts=301.0)
    yield "a credential for too long", Case(UNAUTHENTICATED, "SIGNATURE_TOO_LONG", long)
    yield "a stranger's credential", Case(DENIED, "KEY_UNKNOWN", _changed(method, "nobody"))
    yield "a revoked credential", Case(DENIED, "KEY_REVOKED", _changed(method, "gone"))
    foreign = _changed(method, statement=setting(audience="fedunlearn:elsewhere"))
    yield "a foreign credential", Case(DENIED, "AUDIENCE_MISMATCH", foreign)


def _flip(message: Any) -> None:
    signature = bytearray(message.signature)
    signature[len(signature) // 2] ^= 1
    message.signature = bytes(signature)


def _flip_proof(scope: Any) -> None:
    path = list(scope.records[0].path)
    path[0] = bytes(32)
    setting(path=path)(scope.records[0])


def _cases() -> Iterator[tuple[str, Case]]:
    for name, case in _ran(FIELDS_OF_CREATE, INVALID, "FIELD_INVALID"):
        yield f"CreateDeletion, {name}", case
    for name, case in _of_create():
        yield f"CreateDeletion, {name}", case
    for method in METHODS:
        for name, case in _of_bodies(method):
            yield f"{method}, {name}", case
    for method in CALLS:
        for name, case in _credentials(method):
            yield f"{method}, {name}", case
    yield from _of_rights()
    yield from _of_fields()


def _of_create() -> Iterator[tuple[str, Case]]:
    body = creating(Names("somewhere")).body
    yield from _ran(
        {
            "no protobuf": _raw("CreateDeletion", b"\xff\xff\xff\xff"),
            "cut short": _raw("CreateDeletion", body[:-3]),
            "JSON": _raw("CreateDeletion", b'{"statement": {}}'),
            "wrong UTF-8": _raw("CreateDeletion", b"\x0a\x04\x12\x02\xc3\x28"),
        },
        INVALID,
        "MALFORMED",
    )
    yield from _ran(
        {
            "another's key id": _envelope(key_id=KEYS["bob"].public.id),
            "a signed call's type": lambda n: creating(n, type=CALL_TYPE),
            "a changed signature": lambda n: creating(n, envelope=_flip),
            "half a signature": lambda n: creating(
                n, envelope=lambda m: setting(signature=m.signature[:32])(m)
            ),
            "a changed statement": lambda n: creating(
                n, envelope=lambda m: setting(payload=m.payload + b"\x08\x01")(m)
            ),
            "another scope than was signed": lambda n: creating(
                n, outer=setting(scope=_nodes(1).SerializeToString())
            ),
            "a digest of another scope": _statement(scope_sha256=b"a" * 32),
        },
        UNAUTHENTICATED,
        "SIGNATURE_INVALID",
    )
    yield from _ran(
        {
            "expired": lambda n: creating(n, after=-1000.0, lasts=900.0),
            "expired long ago": lambda n: creating(n, after=-(10.0**8)),
            "ending before it begins": lambda n: creating(n, lasts=-1.0),
        },
        UNAUTHENTICATED,
        "SIGNATURE_EXPIRED",
    )
    yield (
        "for later",
        Case(UNAUTHENTICATED, "SIGNATURE_NOT_YET_VALID", lambda n: creating(n, after=120.0)),
    )
    yield (
        "for too long",
        Case(UNAUTHENTICATED, "SIGNATURE_TOO_LONG", lambda n: creating(n, lasts=3601.0)),
    )
    yield "a stranger's", Case(DENIED, "KEY_UNKNOWN", lambda n: creating(n, key="nobody"))
    yield (
        "with a revoked key",
        Case(DENIED, "KEY_REVOKED", lambda n: creating(n, _nodes(4), key="gone")),
    )
    yield (
        "for another service",
        Case(DENIED, "AUDIENCE_MISMATCH", _statement(audience="fedunlearn:0123456789abcdef")),
    )
    yield (
        "of another federation",
        Case(DENIED, "FEDERATION_MISMATCH", _statement(federation="banks")),
    )
    yield from _ran(
        {
            "another's node": _scope(_nodes(2)),
            "a node of nobody": _scope(_nodes(99)),
            "one's own and another's node": _scope(_nodes(0, 2)),
            "a class on another's node": _scope(class_scope([1], [2])),
            "another's records": _records(lambda scope: None, node=2),
            "an operator's wish for nobody's node": _scope(_nodes(99), "op"),
        },
        DENIED,
        "NOT_YOUR_NODE",
    )
    yield "a class on all nodes", Case(DENIED, "OPERATOR_ONLY", _scope(class_scope([1])))
    first = COMMITMENTS[0]
    yield from _ran(
        {
            "a changed record": _records(
                lambda scope: setting(commitment=b"a" * 32)(scope.records[0])
            ),
            "another's record": _records(
                lambda scope: setting(commitment=COMMITMENTS[2].commitment(3))(scope.records[0])
            ),
            "a record at another place": _records(lambda scope: setting(index=4)(scope.records[0])),
            "a record after the last": _records(
                lambda scope: setting(index=first.size)(scope.records[1])
            ),
            "a changed path": _records(_flip_proof),
            "no path": _records(lambda scope: setting(path=None)(scope.records[0])),
            "a longer path": _records(lambda scope: scope.records[0].path.append(bytes(32))),
            "records of another node": _records(setting(node=2), key="bob"),
        },
        DENIED,
        "RECORD_NOT_COMMITTED",
    )
    yield (
        "records of a node without commitments",
        Case(PRECONDITION, "NODE_NOT_COMMITTED", _records(setting(node=3), key="bob")),
    )
    yield (
        "a model that is not known",
        Case(PRECONDITION, "MODEL_UNKNOWN", _statement(model_sha256=b"a" * 32)),
    )
    yield "a node that has left", Case(PRECONDITION, "NODE_LEFT", _scope(_nodes(1)))
    yield "too large", Case(EXHAUSTED, "", _raw("CreateDeletion", bytes(MIB + 1)))
    yield (
        "too large once it is unpacked",
        Case(EXHAUSTED, "", _raw("CreateDeletion", bytes(8 * MIB)), compressed=True),
    )
    yield (
        "an id that is used",
        Case(
            "ALREADY_EXISTS",
            "REQUEST_ID_REUSED",
            lambda n: creating(
                n, class_scope([7], [0]), statement=setting(request_id=n.tokens["id"])
            ),
        ),
    )


def _of_bodies(method: str) -> Iterator[tuple[str, Case]]:
    def body(content: bytes) -> Build:
        return lambda names: calling(names, method, content, key="op")

    def unknown(names: Names) -> Sent:
        request = _request(method, names)
        with_unknown_field(request)
        return calling(names, method, request, key="op")

    yield "no protobuf", Case(INVALID, "MALFORMED", body(b"\xff\xff\xff"))
    yield "a field that never ends", Case(INVALID, "MALFORMED", body(b"\x0a\xff\xff\xff\x0f"))
    yield "an unknown field", Case(INVALID, "FIELD_INVALID", unknown)
    yield "too large", Case(EXHAUSTED, "", body(bytes(MIB + 1)))


def _of_rights() -> Iterator[tuple[str, Case]]:
    for method in DECISIONS:
        mine = _changed(method, "alice")
        yield f"{method}, by an owner", Case(DENIED, "OPERATOR_ONLY", mine)
    for method in (*READS, "CancelDeletion"):
        theirs = _with(method, "bob")
        yield f"{method}, of another's", Case(DENIED, "NOT_YOUR_REQUEST", theirs)
        nothing = _with(method, "bob", id=UNKNOWN_ID)
        yield f"{method}, of nothing, by an owner", Case(DENIED, "NOT_YOUR_REQUEST", nothing)
    for method in (*READS, "CancelDeletion", *DECISIONS):
        nothing = _with(method, id=UNKNOWN_ID)
        yield f"{method}, of nothing", Case("NOT_FOUND", "DELETION_NOT_FOUND", nothing)
    operators = _with("CancelDeletion")
    yield "CancelDeletion, by an operator", Case(DENIED, "NOT_YOUR_REQUEST", operators)
    for name, method, request in (
        ("a read that was made", "GetDeletion", "read"),
        ("a decision that was made", "RejectDeletion", "decision"),
    ):
        again = _again(request)
        yield f"{method}, {name}", Case(UNAUTHENTICATED, "CALL_REPLAYED", again)
    yield (
        "GetReceipt, too early",
        Case(
            PRECONDITION,
            "RECEIPT_NOT_READY",
            lambda n: calling(n, "GetReceipt", pb.GetReceiptRequest(id=n.pending)),
        ),
    )
    for method, which in (
        ("ApproveDeletion", "pending"),
        ("ApproveDeletion", "cancelled"),
        ("RejectDeletion", "cancelled"),
        ("RejectDeletion", "done"),
        ("RetryDeletion", "pending"),
        ("RetryDeletion", "done"),
        ("ExtendDeletion", "cancelled"),
        ("ExtendDeletion", "extended"),
    ):
        yield f"{method}, {which}", Case(PRECONDITION, "STATE_CONFLICT", _conflict(method, which))
    for which in ("cancelled", "done"):
        yield (
            f"CancelDeletion, {which}",
            Case(PRECONDITION, "STATE_CONFLICT", _conflict("CancelDeletion", which, "alice")),
        )
    yield "NoSuchMethod", Case("UNIMPLEMENTED", "", _raw("NoSuchMethod", b""))


def _again(used: str) -> Build:
    return lambda names: names.used[used]


def _conflict(method: str, which: str, key: str = "op") -> Build:
    def build(names: Names) -> Sent:
        request = _request(method, names)
        setting(id=getattr(names, which))(request)
        if method == "ExtendDeletion":
            setting(due=now() + timedelta(days=80))(request)
        return calling(names, method, request, key=key)

    return build


def _of_fields() -> Iterator[tuple[str, Case]]:
    cases: dict[str, Build] = {}
    for method in (*READS, "CancelDeletion", *DECISIONS):
        for name in ("upper case", "without hyphens", "empty"):
            cases[f"{method}, an id {name}"] = _with(method, id=IDS[name])
    for name, text in {**TEXTS, "long": "a" * 1001}.items():
        for method in ("RejectDeletion", "ExtendDeletion"):
            cases[f"{method}, a reason {name}"] = _with(method, reason=text)
    for name, time in TIMES.items():
        cases[f"ExtendDeletion, due {name}"] = _with("ExtendDeletion", due=time)
    cases["ExtendDeletion, earlier"] = _with("ExtendDeletion", due=now())
    late = now() + timedelta(days=100)
    cases["ExtendDeletion, too far"] = _with("ExtendDeletion", due=late)
    cases["ListDeletions, a negative size"] = _with("ListDeletions", page_size=-1)
    for name, states in {"unspecified": [0], "unknown": [99], "twice": [1, 1]}.items():
        cases[f"ListDeletions, a state {name}"] = _with("ListDeletions", states=states)
    for name, token in {
        "of nothing": "AAAA",
        "that is no base64": "!!!",
        "beyond ASCII": "é" * 8,
        "that is long": "A" * 201,
    }.items():
        cases[f"ListDeletions, a page {name}"] = _with("ListDeletions", page_token=token)
    cases["ListDeletions, another's page"] = lambda n: calling(
        n, "ListDeletions", pb.ListDeletionsRequest(page_token=n.tokens["op"])
    )
    cases["ListDeletions, a page of other states"] = lambda n: calling(
        n, "ListDeletions", pb.ListDeletionsRequest(page_token=n.tokens["op"], states=[1]), key="op"
    )
    cases["WatchDeletion, after what has not been"] = _with("WatchDeletion", after_event=10**9)
    cases["WatchDeletion, after what cannot be"] = _with("WatchDeletion", after_event=2**63)
    yield from _ran(cases, INVALID, "FIELD_INVALID")


CATALOGUE: Mapping[str, Case] = dict(_cases())
