"""Lookup of methods by name, from this and other packages, through entry points."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import ValidationError

from fedunlearn.errors import ScenarioError
from fedunlearn.names import nearest
from fedunlearn.scenario.loading import first_complaint
from fedunlearn.unlearning.method import UnlearningMethod

GROUP = "fedunlearn.methods"


def method_names() -> list[str]:
    """Return the names of all installed methods."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def make_method(name: str, settings: Mapping[str, Any]) -> UnlearningMethod[Any]:
    """Make a method from its table in a scenario.

    Args:
        name: The registered name of the method; or any other name, where the table's key ``method``
            holds the registered one, so that one method can run with several settings.
        settings: The settings, with keys as in the scenario.

    Returns:
        The method, ready to run.

    Raises:
        ScenarioError: There is no such method, or it does not take one of the settings.
    """
    settings = dict(settings)
    registered = settings.pop("method", name)
    for point in entry_points(group=GROUP):
        if point.name == registered:
            method = _loaded(point)
            break
    else:
        known = method_names()
        where = "unlearning" if registered == name else f"unlearning.{name}"
        raise ScenarioError(
            f"{where}: method {registered!r} is unknown{nearest(str(registered), known)}; "
            f"installed are {', '.join(known)}; under another name give its table the key method"
        )
    try:
        return method(method.settings_type.model_validate(settings))
    except ValidationError as error:
        raise ScenarioError(
            f"unlearning.{name}.{first_complaint(error, method.settings_type)}"
        ) from None


def _loaded(point: EntryPoint) -> type[UnlearningMethod[Any]]:
    """Import a method, which may be of another package, and check its interface."""
    where = f"unlearning: method {point.name!r} ({point.value})"
    try:
        method = point.load()
    except Exception as error:
        raise ScenarioError(
            f"{where} cannot be imported: {type(error).__name__}: {error}; reinstall its package, "
            "or ask its maintainers for a version that fits this fedunlearn"
        ) from error
    if not (isinstance(method, type) and issubclass(method, UnlearningMethod)):
        raise ScenarioError(f"{where} is not a subclass of fedunlearn.UnlearningMethod")
    lacking = [name for name in ("name", "settings_type") if not hasattr(method, name)]
    lacking += sorted(getattr(method, "__abstractmethods__", ()))
    if lacking:
        raise ScenarioError(f"{where} does not define {', '.join(lacking)}; see UnlearningMethod")
    missing = [
        name
        for name in inspect.signature(UnlearningMethod.unlearn).parameters
        if name not in inspect.signature(method.unlearn).parameters
    ]
    if missing:
        raise ScenarioError(
            f"{where}: its unlearn() has no parameter {', '.join(missing)}; give it those of "
            "fedunlearn.UnlearningMethod.unlearn"
        )
    return method
