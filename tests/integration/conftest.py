"""Request stores for tests that run on every kind of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedunlearn.requests.store import RequestStore
from tests.deletions import ISSUER, populate
from tests.stores import KINDS, Places


@pytest.fixture(params=KINDS)
def store_url(request: pytest.FixtureRequest, places: Places, tmp_path: Path) -> str:
    return places.empty_url(request.param, tmp_path)


@pytest.fixture
def store(store_url: str) -> Iterator[RequestStore]:
    with RequestStore.open(store_url, issuer=ISSUER, durable=False) as opened:
        populate(opened)
        yield opened
