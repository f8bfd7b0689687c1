"""Set-up that every test shares."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.laws import load_profile
from tests.stores import Places, postgres

# As in the worker processes of Flower's engine: results depend on the number of threads in their
# last bits, and several processes with all threads each slow one another down.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
load_profile()


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Have every test draw the same, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_federation_stays_open() -> Iterator[None]:
    """End the sessions that a test opened, also where it failed."""
    yield
    from tests.federations import close_federations

    close_federations()


@pytest.fixture(scope="session")
def places() -> Iterator[Places]:
    """Where request stores can be made; a PostgreSQL runs until the session's end."""
    with postgres() as server:
        yield Places(server)
