"""All other calls that must be refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from google.protobuf.message import Message

from fedunlearn.requests.statement import DELETION_TYPE, timestamp
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
    UNKNOWN_ID,
    Build,
    Case,
    flip,
    ran,
)
from tests.deletion_house import KEYS, now
from tests.deletion_messages import (
    CALL_KEY,
    Names,
    Sent,
    calling,
    creating,
    setting,
    with_unknown_field,
)


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
        "a changed signature": _changed(method, envelope=flip),
        "a credential of another method": _changed(
            method, statement=setting(method="/fedunlearn.rpc.v1.DeletionService/GetNothing")
        ),
        "a credential of another request": _changed(
            method, statement=setting(request_sha256=b"a" * 32)
        ),
    }
    yield "no credential", Case(UNAUTHENTICATED, "CREDENTIAL_MISSING", bare)
    yield from ran(malformed, UNAUTHENTICATED, "CREDENTIAL_MALFORMED")
    yield from ran(invalid, UNAUTHENTICATED, "SIGNATURE_INVALID")
    yield from ran(
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
    yield "NoSuchMethod", Case("UNIMPLEMENTED", "", lambda names: Sent("NoSuchMethod", b""))


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
    yield from ran(cases, INVALID, "FIELD_INVALID")


def call_cases() -> Iterator[tuple[str, Case]]:
    """Yield every case, by name."""
    for method in METHODS:
        for name, case in _of_bodies(method):
            yield f"{method}, {name}", case
    for method in CALLS:
        for name, case in _credentials(method):
            yield f"{method}, {name}", case
    yield from _of_rights()
    yield from _of_fields()
