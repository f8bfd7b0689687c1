"""CreateDeletion calls that must be refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedunlearn.requests.statement import CALL_TYPE, class_scope, record_scope
from fedunlearn.rpc.v1 import deletion_pb2 as pb
from tests.deletion_catalogue.case import (
    DENIED,
    EXHAUSTED,
    IDS,
    INVALID,
    MIB,
    PRECONDITION,
    TEXTS,
    TIMES,
    UNAUTHENTICATED,
    Build,
    Case,
    flip,
    ran,
)
from tests.deletion_house import COMMITMENTS, KEYS, MOST_RECORDS, now
from tests.deletion_messages import Change, Names, Sent, creating, setting, with_unknown_field


def _statement(**values: Any) -> Build:
    return lambda names: creating(names, statement=setting(**values))


def _envelope(**values: Any) -> Build:
    return lambda names: creating(names, envelope=setting(**values))


def _scope(scope: pb.Scope | bytes, key: str = "alice") -> Build:
    return lambda names: creating(names, scope, key=key)


def _records(change: Change, node: str = "0", records: Any = (3, 5), key: str = "alice") -> Build:
    def build(names: Names) -> Sent:
        scope = record_scope(node, COMMITMENTS[node], records)
        change(scope.records)
        return creating(names, scope, key=key)

    return build


def _raw(body: bytes) -> Build:
    return lambda names: Sent("CreateDeletion", body)


def _class(labels: list[int], nodes: list[int]) -> bytes:
    scope = pb.Scope()
    named = pb.ClassScope(labels=map(str, labels), nodes=map(str, nodes))
    getattr(scope, "class").CopyFrom(named)
    return scope.SerializeToString()


def _nodes(*nodes: int) -> pb.Scope:
    return pb.Scope(node=pb.NodeScope(nodes=map(str, nodes)))


def _bad_time(**values: int) -> Change:
    def change(message: Any) -> None:
        message.issued.Clear()
        for name, value in values.items():
            setattr(message.issued, name, value)

    return change


FIELDS_OF_CREATE: dict[str, Build] = {
    "an empty request": _raw(b""),
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
    "too many nodes": _scope(_nodes(*range(1000, 2001))),
    "a node without a name": _scope(pb.Scope(node=pb.NodeScope(nodes=[""]))),
    "a name with a line break": _scope(pb.Scope(node=pb.NodeScope(nodes=["a\nb"]))),
    "a name of 201 characters": _scope(pb.Scope(node=pb.NodeScope(nodes=["a" * 201]))),
    "a label with blanks around it": _scope(class_scope([" cat"], ["0"])),
    "records of a node without a name": _records(setting(node="")),
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
    "too many labels": _scope(_class(list(range(1000, 2001)), [0])),
    "a class's node twice": _scope(_class([1], [0, 0])),
    "a class's nodes out of order": _scope(_class([1], [1, 0])),
    **{f"a request id {name}": _statement(request_id=value) for name, value in IDS.items()},
    **{f"issued {name}": _statement(issued=value) for name, value in TIMES.items()},
    **{f"expires {name}": _statement(expires=value) for name, value in TIMES.items()},
    **{f"an audience {name}": _statement(audience=value) for name, value in TEXTS.items()},
    **{f"a federation {name}": _statement(federation=value) for name, value in TEXTS.items()},
}


def _flip_proof(scope: Any) -> None:
    path = list(scope.records[0].path)
    path[0] = bytes(32)
    setting(path=path)(scope.records[0])


def create_cases() -> Iterator[tuple[str, Case]]:
    """Yield every case, by name."""
    yield from ran(FIELDS_OF_CREATE, INVALID, "FIELD_INVALID")
    body = creating(Names("somewhere")).body
    yield from ran(
        {
            "no protobuf": _raw(b"\xff\xff\xff\xff"),
            "cut short": _raw(body[:-3]),
            "JSON": _raw(b'{"statement": {}}'),
            "wrong UTF-8": _raw(b"\x0a\x04\x12\x02\xc3\x28"),
        },
        INVALID,
        "MALFORMED",
    )
    yield from ran(
        {
            "another's key id": _envelope(key_id=KEYS["bob"].public.id),
            "a signed call's type": lambda n: creating(n, type=CALL_TYPE),
            "a changed signature": lambda n: creating(n, envelope=flip),
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
    yield from ran(
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
    yield from ran(
        {
            "another's node": _scope(_nodes(2)),
            "a node of nobody": _scope(_nodes(99)),
            "one's own and another's node": _scope(_nodes(0, 2)),
            "a class on another's node": _scope(class_scope(["1"], ["2"])),
            "another's records": _records(lambda scope: None, node="2"),
            "an operator's wish for nobody's node": _scope(_nodes(99), "op"),
        },
        DENIED,
        "NOT_YOUR_NODE",
    )
    yield (
        "a class that the data do not have",
        Case(PRECONDITION, "CLASS_UNKNOWN", _scope(class_scope(["03"], ["0"]))),
    )
    yield "a class on all nodes", Case(DENIED, "OPERATOR_ONLY", _scope(class_scope(["1"])))
    first = COMMITMENTS["0"]
    yield from ran(
        {
            "a changed record": _records(
                lambda scope: setting(commitment=b"a" * 32)(scope.records[0])
            ),
            "another's record": _records(
                lambda scope: setting(commitment=COMMITMENTS["2"].commitment(3))(scope.records[0])
            ),
            "a record at another place": _records(lambda scope: setting(index=4)(scope.records[0])),
            "a record after the last": _records(
                lambda scope: setting(index=first.size)(scope.records[1])
            ),
            "a changed path": _records(_flip_proof),
            "no path": _records(lambda scope: setting(path=None)(scope.records[0])),
            "a longer path": _records(lambda scope: scope.records[0].path.append(bytes(32))),
            "records of another node": _records(setting(node="2"), key="bob"),
        },
        DENIED,
        "RECORD_NOT_COMMITTED",
    )
    yield (
        "records of a node without commitments",
        Case(PRECONDITION, "NODE_NOT_COMMITTED", _records(setting(node="3"), key="bob")),
    )
    yield (
        "a model that is not known",
        Case(PRECONDITION, "MODEL_UNKNOWN", _statement(model_sha256=b"a" * 32)),
    )
    yield "a node that has left", Case(PRECONDITION, "NODE_LEFT", _scope(_nodes(1)))
    yield "too large", Case(EXHAUSTED, "", _raw(bytes(MIB + 1)))
    yield (
        "too large once it is unpacked",
        Case(EXHAUSTED, "", _raw(bytes(8 * MIB)), compressed=True),
    )
    yield (
        "an id that is used",
        Case(
            "ALREADY_EXISTS",
            "REQUEST_ID_REUSED",
            lambda n: creating(
                n, class_scope(["7"], ["0"]), statement=setting(request_id=n.tokens["id"])
            ),
        ),
    )
