"""Owners, workers and operators at once: nobody waits for ever, and all holds in the end."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from fedunlearn.errors import LeaseLostError, TransitionError
from fedunlearn.requests.deletion import Stage, State
from fedunlearn.requests.issuing import make_receipts
from fedunlearn.requests.leases import Lease
from fedunlearn.requests.statement import node_scope
from fedunlearn.requests.store import RequestStore
from tests.deletions import (
    ISSUER,
    OPERATOR,
    START,
    at,
    entries,
    holds,
    model_named,
    populate,
    request,
)

TURNS = 25


def test_all_at_once(store_url: str) -> None:
    requests = [request(node_scope([str(i % 4)]), days=10 + i % 7) for i in range(2 * TURNS)]
    with RequestStore.open(store_url, issuer=ISSUER, durable=False) as first:
        populate(first)
    seen: list[int] = []
    stop = threading.Event()

    def own(store: RequestStore, _: random.Random) -> None:
        for new in requests:
            store.create(new)

    def watch(store: RequestStore, _: random.Random) -> None:
        while not stop.is_set():
            stop.wait(0.005)
            found = store.events(None, after=seen[-1] if seen else 0)
            seen.extend(event.number for event in found)

    def work(store: RequestStore, dice: random.Random) -> None:
        for _ in range(TURNS):
            lease = store.lease("w", now=START, seconds=60, batch=dice.randint(1, 3))
            if lease is not None:
                _do(store, lease, dice)

    def decide(store: RequestStore, dice: random.Random) -> None:
        for _ in range(TURNS):
            found = store.list(limit=200)
            acts: list[Callable[[str], object]] = [
                lambda id: store.cancel(id, OPERATOR, now=START),
                lambda id: store.retry(id, OPERATOR, now=START),
                lambda id: store.extend(id, OPERATOR, at(40 * 86_400), "much", now=START),
                lambda id: store.rollback(OPERATOR, "worse", now=START),
            ]
            if found:
                try:
                    dice.choice(acts)(dice.choice(found).id)
                except TransitionError:
                    pass

    # As two processes with threads would.
    stores = [RequestStore.open(store_url, issuer=ISSUER, durable=False) for _ in range(2)]

    def run(task: tuple[int, Callable[[RequestStore, random.Random], None]]) -> None:
        task[1](stores[task[0] % 2], random.Random(task[0]))

    tasks = list(enumerate([own, own, work, work, decide, decide]))
    with ThreadPoolExecutor(7) as pool:
        watcher = pool.submit(run, (9, watch))
        try:
            list(pool.map(run, tasks))
        finally:
            stop.set()
        watcher.result()
    for store in stores:
        store.close()
    with RequestStore.open(store_url, issuer=ISSUER, durable=False) as store:
        assert len(store.list(limit=1000)) == len(requests)
        # Whoever watches by number misses nothing.
        last = seen[-1]
        assert seen == [e.number for e in store.events(None, limit=10_000) if e.number <= last]
        assert any(d.state is State.SUCCEEDED for d in store.list(limit=1000))
        assert holds(store)


def _do(store: RequestStore, lease: Lease, dice: random.Random) -> None:
    store.advance(lease, dice.choice(list(Stage)), now=START)
    if dice.random() < 0.2:
        store.fail(lease, "no", now=START)
        return
    while True:
        try:
            new = model_named(f"{lease.base} {lease.job}")
            store.commit(lease, new=new, entries=entries(lease), facts={}, now=START)
            break
        except TransitionError:
            lease = store.rebase(lease, now=START)
    store.finish(lease, make_receipts(store, lease.job, ISSUER), now=START)


def test_only_one_of_two_workers_commits(store: RequestStore) -> None:
    store.create(request())
    early = store.lease("early", now=START, seconds=1)
    late = store.lease("late", now=at(1), seconds=60)
    assert early is not None and late is not None
    barrier = threading.Barrier(2)

    def commit(lease: Lease) -> bool:
        barrier.wait()
        try:
            # The early one's clock is slow.
            now = at(0.5) if lease is early else at(2)
            new = model_named(lease.worker)
            store.commit(lease, new=new, entries=entries(lease), facts={}, now=now)
        except LeaseLostError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(commit, [early, late])) == [False, True]
    current = store.current()
    assert current is not None and current.sha256 == model_named("late")
