"""Methods by name and by the tables of a scenario."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from fedunlearn.errors import ScenarioError
from fedunlearn.lab.run import run_scenario
from fedunlearn.progress import Silent
from fedunlearn.scenario.loading import LoadedScenario, parse_scenario
from fedunlearn.settings import Settings
from fedunlearn.unlearning import registry
from fedunlearn.unlearning.cubic_newton import CubicNewton
from fedunlearn.unlearning.fine_tune import FineTune
from fedunlearn.unlearning.method import UnlearningMethod
from fedunlearn.unlearning.newton_pinv import NewtonPinv
from fedunlearn.unlearning.registry import GROUP, make_method, method_names
from tests.tables import ROOT


def test_a_table_may_name_a_method_of_its_own() -> None:
    method = make_method("paper", {"method": "cubic-newton", "gradient": "retained"})
    assert isinstance(method, CubicNewton)
    assert method.settings.gradient == "retained"
    assert isinstance(make_method("newton-pinv", {"method": "newton-pinv"}), NewtonPinv)
    assert isinstance(make_method("fine-tune", {"method": "newton-pinv"}), NewtonPinv)


def test_settings_of_a_table_are_not_used_up() -> None:
    table = {"method": "cubic-newton", "products": 3}
    make_method("paper", table)
    assert table == {"method": "cubic-newton", "products": 3}


def test_every_method_is_registered_under_its_own_name() -> None:
    names = method_names()
    assert len(names) >= 5
    for name in names:
        method = make_method(name, {})
        assert method.name == name
        assert type(make_method("another", {"method": name})) is type(method)


@pytest.mark.parametrize(
    ("name", "table", "says"),
    [
        (
            "paper",
            {"method": "cubic-nwton"},
            "unlearning.paper: method 'cubic-nwton' is unknown (did you mean 'cubic-newton'?)",
        ),
        ("paper", {"method": 5}, "unlearning.paper: method 5 is unknown"),
        ("paper", {"gradient": "recorded"}, "unlearning: method 'paper' is unknown"),
        (
            "paper",
            {"method": "newton-pinv", "weight": 1.0},
            "unlearning.paper.weight: unknown key",
        ),
        (
            "paper",
            {"method": "cubic-newton", "gradient": "gone"},
            "unlearning.paper.gradient: must be 'departing', 'recorded' or 'retained'",
        ),
        (
            "newton-damped",
            {"damping": 0},
            "unlearning.newton-damped.damping: must be greater than 0",
        ),
        ("cubic-newton", {"product-share": 0.0}, "unlearning.cubic-newton.product-share: must be"),
        ("cubic-newton", {"completion": 1.5}, "unlearning.cubic-newton.completion: must be"),
        (
            "stochastic-cubic-newton",
            {"weight": "auto"},
            "unlearning.stochastic-cubic-newton.weight: must be a valid number",
        ),
    ],
)
def test_errors_name_the_table(name: str, table: dict[str, Any], says: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        make_method(name, table)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


def test_a_table_is_checked_though_its_method_does_not_run() -> None:
    tables = {"methods": ["fine-tune"], "paper": {"method": "cubic-newton", "stepps": 2}}
    loaded = LoadedScenario("x", ROOT, parse_scenario({"unlearning": tables}))
    with pytest.raises(ScenarioError, match=r"unlearning\.paper\.stepps: unknown key"):
        run_scenario(loaded, transport="inline", progress=Silent())


class WithoutOnRound(FineTune):
    """A method whose unlearn() has other parameters than those it is called with."""

    def unlearn(self, trained, federation, forget):  # type: ignore[no-untyped-def,override]
        return super().unlearn(trained, federation, forget)


def no_method() -> None: ...


class Abstract(UnlearningMethod[Settings]):
    """A method that defines nothing."""


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("no_such_package:Method", "cannot be imported: ModuleNotFoundError: No module named"),
        (f"{__name__}:Missing", "cannot be imported: AttributeError"),
        (f"{__name__}:no_method", "is not a subclass of fedunlearn.UnlearningMethod"),
        (f"{__name__}:Abstract", "does not define name, settings_type, unlearn"),
        (f"{__name__}:WithoutOnRound", "its unlearn() has no parameter on_round"),
    ],
)
def test_a_method_that_does_not_fit_is_refused(
    value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EntryPoint("theirs", value, GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    with pytest.raises(ScenarioError, match=re.escape("unlearning: method 'theirs'")) as raised:
        make_method("theirs", {})
    assert says in str(raised.value) and "\n" not in str(raised.value)
