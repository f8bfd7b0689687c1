"""Mutated calls of the deletion service: refused or taken, never a failure inside."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from fedunlearn.requests.statement import CALL_TYPE, DELETION_TYPE, class_scope, record_scope
from fedunlearn.rpc.v1 import deletion_pb2 as pb
from tests.deletion_catalogue.calls import METHODS, valid
from tests.deletion_house import COMMITMENTS, House, house, remove
from tests.deletion_messages import CALL_KEY, Names, Sent, calling, creating, signed
from tests.deletion_wire import refused
from tests.laws import seed_of_the_search

COUNT = 20_000
TOGETHER = 64
# What is wrong with a call, or with its time; INTERNAL_FAILURE would come as UNAVAILABLE.
TAKEN = {"OK", "ALREADY_EXISTS", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "NOT_FOUND"}
REFUSED = {"INVALID_ARGUMENT", "UNAUTHENTICATED", "PERMISSION_DENIED"}


def mutated(body: bytes, dice: random.Random) -> bytes:
    """Change a few bytes: flip, overwrite, insert, take out, repeat, cut, append."""
    found = bytearray(body)
    for _ in range(dice.choice((1, 1, 1, 2, 4, 8))):
        place = dice.randrange(len(found) + 1)
        kind = dice.randrange(7)
        if kind == 0 and place < len(found):
            found[place] ^= 1 << dice.randrange(8)
        elif kind == 1 and place < len(found):
            found[place] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
        elif kind == 2:
            found[place:place] = dice.randbytes(dice.randrange(1, 9))
        elif kind == 3:
            del found[place : place + dice.randrange(1, 9)]
        elif kind == 4:
            found[place:place] = found[place : place + dice.randrange(1, 65)]
        elif kind == 5:
            del found[place:]
        else:
            # A field more, of any number and type.
            found += bytes([dice.randrange(8, 128), dice.randrange(256)])
    return bytes(found)


def mutations(names: Names, dice: random.Random) -> Iterator[Sent]:
    """Yield calls of all methods, mutated outside of the signature or before signing."""
    scopes = [record_scope("0", COMMITMENTS["0"], [3, 5]), class_scope(["1"], ["0"]), None]

    def outside() -> Sent:
        sent = creating(names, dice.choice(scopes))
        return Sent(sent.method, mutated(sent.body, dice))

    def statement() -> Sent:
        scope = dice.choice(scopes)
        request = pb.CreateDeletionRequest.FromString(creating(names, scope).body)
        payload = mutated(request.statement.payload, dice)
        request.statement.CopyFrom(signed(DELETION_TYPE, payload))
        return Sent("CreateDeletion", request.SerializeToString())

    def scope() -> Sent:
        content = dice.choice(scopes[:2])
        assert content is not None
        return creating(names, mutated(content.SerializeToString(), dice))

    def body(method: str) -> Callable[[], Sent]:
        def build() -> Sent:
            return calling(names, method, mutated(valid(method, names).body, dice), key="op")

        return build

    def credential(method: str) -> Callable[[], Sent]:
        def build() -> Sent:
            sent = valid(method, names)
            if dice.random() < 0.5:
                return Sent(method, sent.body, ((CALL_KEY, mutated(sent.metadata[0][1], dice)),))
            payload = pb.Signed.FromString(sent.metadata[0][1]).payload
            whole = signed(CALL_TYPE, mutated(payload, dice), "op").SerializeToString()
            return Sent(method, sent.body, ((CALL_KEY, whole),))

        return build

    builders = [outside, statement, scope]
    builders += [body(method) for method in METHODS] + [
        credential(method) for method in METHODS if method != "GetServiceInfo"
    ]
    while True:
        yield dice.choice(builders)()


def answers(channel: grpc.Channel, sents: list[Sent]) -> Iterator[str]:
    """Make calls together; a watch is read to its end, for which it gets little time."""
    calls = []
    for sent in sents:
        if sent.method == "WatchDeletion":
            stream = channel.unary_stream(sent.path)
            calls.append(stream(sent.body, metadata=sent.metadata, timeout=20))
        else:
            unary = channel.unary_unary(sent.path)
            calls.append(unary.future(sent.body, metadata=sent.metadata, timeout=20))
    for sent, call in zip(sents, calls, strict=True):
        try:
            if sent.method == "WatchDeletion":
                for _ in call:
                    pass
            else:
                call.result()
        except grpc.RpcError as error:
            answer = refused(error)
            assert answer.reason or answer.code == "RESOURCE_EXHAUSTED", (sent, answer)
            yield answer.code
        else:
            yield "OK"


def names_of(opened: House) -> Names:
    alice, bob = opened.client("alice"), opened.client("bob")
    done = bob.create(record_scope("2", COMMITMENTS["2"], [1]))
    remove(opened.state, "second")
    cancelled = alice.create(record_scope("0", COMMITMENTS["0"], [2]))
    alice.cancel(cancelled.id)
    return Names(
        opened.server.audience,
        pending=alice.create(record_scope("0", COMMITMENTS["0"], [1])).id,
        awaiting=bob.create(class_scope(["1"], ["2"])).id,
        cancelled=cancelled.id,
        done=done.id,
    )


@pytest.mark.fuzzed
@pytest.mark.parametrize("seed", [seed_of_the_search()])
def test_mutated_calls_never_fail_inside(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    with house(tmp_path / "state") as opened, grpc.insecure_channel(opened.address) as channel:
        source = mutations(names_of(opened), dice)
        codes: Counter[str] = Counter()
        while codes.total() < COUNT:
            codes.update(answers(channel, [next(source) for _ in range(TOGETHER)]))
        assert set(codes) <= TAKEN | REFUSED, codes
        assert all(codes[code] > 100 for code in REFUSED | {"OK"}), codes
