"""Issuing receipts from the content of the store; issued again, they are identical."""

from __future__ import annotations

from fedunlearn.errors import TransitionError
from fedunlearn.requests.keys import PrivateKey
from fedunlearn.requests.receipts import make_receipt
from fedunlearn.requests.store import RequestStore


def make_receipts(store: RequestStore, job: str, key: PrivateKey) -> dict[str, str]:
    """Return the receipts of an applied job, by request.

    Args:
        store: The request store with the job.
        job: Id of the job.
        key: Private key of the issuer.

    Raises:
        TransitionError: The job is not applied.
    """
    applied = store.applied(job)
    if not applied:
        raise TransitionError(f"job {job} is not applied and has no receipts")
    first, last = applied[0].index, applied[-1].index
    rows = {row.index: row for row in store.log(after=first - 1) if row.index <= last}
    head = store.head_over(last)
    assert head is not None
    paths = store.inclusions(rows, head.size)
    return {
        row.deletion: make_receipt(rows[row.index], head, paths[row.index], key) for row in applied
    }
