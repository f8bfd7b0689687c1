"""What can be imported from the package, and methods with their settings."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib.metadata import entry_points, version
from types import ModuleType
from typing import Any

import pytest

import fedunlearn
import fedunlearn.flower
import fedunlearn.testing
from fedunlearn.errors import InputError
from fedunlearn.unlearning.method import UnlearningMethod
from fedunlearn.unlearning.registry import GROUP

METHODS: list[type[UnlearningMethod[Any]]] = [
    point.load() for point in sorted(entry_points(group=GROUP))
]


@pytest.mark.parametrize("package", [fedunlearn, fedunlearn.flower, fedunlearn.testing])
def test_all_names_are_there_and_listed(package: ModuleType) -> None:
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is not None, name
    with pytest.raises(AttributeError, match="no attribute 'Rewnd'"):
        package.Rewnd  # noqa: B018


def test_the_version_is_that_of_the_distribution() -> None:
    assert fedunlearn.__version__ == version("fedunlearn")
    assert "__version__" in dir(fedunlearn)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_and_its_settings_can_be_imported(method: type[UnlearningMethod[Any]]) -> None:
    assert getattr(fedunlearn, method.__name__) is method
    assert getattr(fedunlearn, method.settings_type.__name__) is method.settings_type
    fields = method.settings_type.model_fields
    assert list(inspect.signature(method).parameters) == ["settings", *fields]
    defaults = {name: getattr(method.settings_type(), name) for name in fields}
    assert method(**defaults).settings == method(method.settings_type()).settings
    assert method().settings == method.settings_type()


def test_settings_may_be_given_by_their_names() -> None:
    from fedunlearn import CubicNewton, CubicNewtonSettings, FedEraser, Rewind, RewindSettings

    assert Rewind(rounds=3).settings == RewindSettings(rounds=3)
    assert CubicNewton(products=4, linearise_at=1.0).settings == CubicNewtonSettings(
        products=4, linearise_at=1.0
    )
    assert FedEraser(every=3).settings.every == 3


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: fedunlearn.Rewind(round=3), "rewind: round: unknown key .did you mean 'rounds'"),
        (lambda: fedunlearn.Rewind(rounds=0), "rewind: rounds: .* not 0"),
        (lambda: fedunlearn.Rewind(rounds="3"), "rewind: rounds: .* not '3'"),
        (lambda: fedunlearn.Rewind(3), "rewind: settings are int; give RewindSettings"),
        (
            lambda: fedunlearn.Rewind(fedunlearn.FineTuneSettings()),
            "rewind: settings are FineTuneSettings; give RewindSettings",
        ),
        (
            lambda: fedunlearn.Rewind(fedunlearn.RewindSettings(), rounds=3),
            "RewindSettings beside rounds; give RewindSettings",
        ),
    ],
)
def test_settings_that_a_method_does_not_take_are_refused(make: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as refusal:
        make()
    assert "\n" not in str(refusal.value)


def test_the_package_loads_neither_torch_nor_flower_nor_by_listing_its_names() -> None:
    code = (
        "import sys, fedunlearn; dir(fedunlearn); fedunlearn.__version__;"
        "assert not {'torch', 'flwr', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
