"""Methods by name, ours and those of other packages, through entry points."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from pydantic import ValidationError

from fedunlearn.errors import ScenarioError
from fedunlearn.scenario.loading import first_complaint, nearest
from fedunlearn.unlearning.method import UnlearningMethod

GROUP = "fedunlearn.methods"


def method_names() -> list[str]:
    """Return the names of all installed methods."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def make_method(name: str, settings: Mapping[str, Any]) -> UnlearningMethod[Any]:
    """Make a method from its table in a scenario.

    Args:
        name: As registered; or any other, where the table's key ``method`` holds that, so that
            one method can run with several settings.
        settings: Keys as in the scenario.

    Returns:
        The method, ready to run.

    Raises:
        ScenarioError: No such method, or a setting it does not take.
    """
    settings = dict(settings)
    registered = settings.pop("method", name)
    for point in entry_points(group=GROUP):
        if point.name == registered:
            method: type[UnlearningMethod[Any]] = point.load()
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
