"""A user's Flower app in a folder: its components, its config, and how its requests are removed."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from pydantic import ConfigDict, Field, ValidationError

from fedunlearn.errors import InputError, ScenarioError
from fedunlearn.federation.transport.session_server import Endpoint
from fedunlearn.flower.own_client import Forgetting
from fedunlearn.flower.sessions import SessionSettings
from fedunlearn.scenario.loading import first_complaint
from fedunlearn.settings import Settings
from fedunlearn.toml import read_toml
from fedunlearn.unlearning.method import UnlearningMethod
from fedunlearn.unlearning.registry import make_method

PYPROJECT = "pyproject.toml"
# Keys of the run config in the copy of an app that a worker runs: the state folder, the app's own
# folder, where a failure is written.
STATE, APP, OUT = "fedunlearn-state", "fedunlearn-app", "fedunlearn-out"
# The URL of a request store that is not in the state folder.
DATABASE = "fedunlearn-database"


class SessionPlace(Settings):
    """The table ``[tool.fedunlearn.session]``: the endpoint of a removal's gRPC session.

    Attributes:
        listen: IP address of the interface that the SuperLink's machine listens on.
        port: 0 for any that is free.
        reach: Host name or address that nodes connect to; left out, ``listen``.
    """

    listen: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    reach: str | None = None


class AppSettings(Settings):
    """The table ``[tool.fedunlearn]`` of an app's pyproject.toml.

    Attributes:
        method: By which requests are removed; its settings are in a table of its name.
        recovery_rounds: Of the app's own training on what stays, after each removal.
        strategy: ``module:function`` that makes the app's strategy, for methods that train.
        nodes: How many nodes the simulation has; left out, as many as enrolled first, or 10.
        session: Where nodes of a deployment connect to for the rounds of a removal.
    """

    model_config = ConfigDict(extra="allow")

    method: str = "cubic-newton"
    recovery_rounds: Annotated[int, Field(ge=0)] = 0
    strategy: str | None = None
    nodes: Annotated[int, Field(gt=1)] | None = None
    session: SessionPlace = SessionPlace()


@dataclass(frozen=True)
class AppFolder:
    """A user's Flower app.

    Attributes:
        folder: Where its pyproject.toml is.
        client: ``module:attribute`` of its ClientApp.
        server: ``module:attribute`` of its ServerApp.
        config: Its run config.
        settings: How requests are removed.
        document: Its whole pyproject.toml.
    """

    folder: Path
    client: str
    server: str
    config: Mapping[str, Any]
    settings: AppSettings
    document: Mapping[str, Any] = field(repr=False)

    @classmethod
    def read(cls, folder: Path) -> AppFolder:
        """Read an app's pyproject.toml.

        Args:
            folder: Of the app.

        Returns:
            The app; nothing of it is imported yet.

        Raises:
            InputError: It is no Flower app.
            ScenarioError: The table ``[tool.fedunlearn]`` cannot be used.
        """
        path = folder / PYPROJECT
        try:
            document = read_toml(path, ScenarioError)
        except FileNotFoundError:
            raise InputError(f"--app {folder}: holds no {PYPROJECT}; name a Flower app") from None
        tool = document.get("tool", {})
        app = tool.get("flwr", {}).get("app", {})
        parts = app.get("components", {})
        for name in ("serverapp", "clientapp"):
            if not isinstance(parts.get(name), str) or ":" not in parts[name]:
                raise InputError(
                    f"{path}: [tool.flwr.app.components] has no {name}; name it as module:app"
                )
        try:
            settings = AppSettings.model_validate(tool.get("fedunlearn", {}))
        except ValidationError as error:
            complaint = first_complaint(error, AppSettings)
            raise ScenarioError(f"{path}: [tool.fedunlearn] {complaint}") from None
        config = _flat(app.get("config", {}))
        return cls(folder, parts["clientapp"], parts["serverapp"], config, settings, document)

    def method(self) -> UnlearningMethod[Any]:
        """Return the method by which requests are removed."""
        name = self.settings.method
        tables = self.settings.model_extra or {}
        unknown = [key for key in tables if key != name]
        if unknown:
            raise ScenarioError(
                f"{self.folder / PYPROJECT}: [tool.fedunlearn] has {unknown[0]!r}, which is "
                f"none of its keys nor the method {name!r}"
            )
        return make_method(name, tables.get(name, {}))

    def load(self, reference: str) -> Any:
        """Import a component.

        Args:
            reference: ``module:attribute``.

        Returns:
            The attribute.

        Raises:
            InputError: There is no such module or attribute, or importing it fails.
        """
        module, _, attribute = reference.partition(":")
        self.importable()
        try:
            return getattr(importlib.import_module(module), attribute)
        except Exception as error:
            raise InputError(
                f"--app {self.folder}: {reference} cannot be imported: {type(error).__name__}: "
                f"{error}"
            ) from error

    def importable(self) -> None:
        """Let the app's modules be imported."""
        if str(self.folder) not in sys.path:
            sys.path.insert(0, str(self.folder))

    def forgetting(self) -> Forgetting:
        """Return what the app's client module got from ``unlearnable``.

        Raises:
            InputError: It does not call it, or not where modules can see it.
        """
        app = self.load(self.client)
        module = importlib.import_module(self.client.partition(":")[0])
        found = [one for one in vars(module).values() if isinstance(one, Forgetting)]
        if not found:
            raise InputError(
                f"--app {self.folder}: {module.__name__} has no handle of unlearnable(...); let it "
                "hold forgetting = unlearnable(app, ...)"
            )
        del app
        return found[0]

    def server_app(self) -> Any:
        """Return the app's ServerApp."""
        return self.load(self.server)

    def sessions(self) -> SessionSettings:
        """Return how the rounds of a removal go over gRPC streams."""
        place = self.settings.session
        return SessionSettings(Endpoint(place.listen, place.port, place.reach))

    def strategy(self) -> Callable[[], object] | None:
        """Return what makes the app's strategy; None where the settings name nothing."""
        reference = self.settings.strategy
        if reference is None:
            return None
        make: Callable[[], object] = self.load(reference)
        return make

    def copied(self, target: Path, server: str, config: Mapping[str, Any]) -> None:
        """Copy the app into a folder, with another ServerApp and more run config.

        Args:
            target: A folder that is made.
            server: ``module:attribute`` of the ServerApp.
            config: Keys that are added.
        """
        ignored = shutil.ignore_patterns(".venv", "__pycache__", ".git", "*.fab", "out*")
        shutil.copytree(self.folder, target, ignore=ignored)
        document: dict[str, Any] = _copy(self.document)
        app = document["tool"]["flwr"]["app"]
        app["components"]["serverapp"] = server
        app["config"] = {**app.get("config", {}), **config}
        (target / PYPROJECT).write_text(tomli_w.dumps(document), encoding="utf-8")


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(one) for key, one in value.items()}
    return [_copy(one) for one in value] if isinstance(value, list) else value


def _flat(tables: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return a run config as Flower does: nested tables joined by points."""
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{key}.")
        else:
            flat[f"{before}{key}"] = value
    return flat
