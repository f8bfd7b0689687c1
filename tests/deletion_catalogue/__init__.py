"""Calls that must be refused, each with its status code and its reason."""

from __future__ import annotations

from collections.abc import Mapping

from tests.deletion_catalogue.calls import call_cases
from tests.deletion_catalogue.case import Case
from tests.deletion_catalogue.create import create_cases

CATALOGUE: Mapping[str, Case] = {
    **{f"CreateDeletion, {name}": case for name, case in create_cases()},
    **dict(call_cases()),
}
