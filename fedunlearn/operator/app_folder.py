"""A user's Flower app in a folder: its components, its run config, and its removal settings."""

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
# Keys that a worker adds to the run config of its copy of the app: the state folder, the app's own
# folder, and the folder for a failure's message.
STATE, APP, OUT = "fedunlearn-state", "fedunlearn-app", "fedunlearn-out"
# Run config key with the URL of a request store that is not in the state folder.
DATABASE = "fedunlearn-database"


class SessionPlace(Settings):
    """The table ``[tool.fedunlearn.session]``: the endpoint of a removal's gRPC session.

    Attributes:
        listen: IP address of the interface that the SuperLink's machine listens on.
        port: Port to listen on; 0 for any free port.
        reach: Host name or address that nodes connect to; by default, ``listen``.
    """

    listen: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    reach: str | None = None


class AppSettings(Settings):
    """The table ``[tool.fedunlearn]`` of an app's pyproject.toml.

    Attributes:
        method: Name of the method that removes; its settings are in a table of this name.
        recovery_rounds: Rounds of the app's own training on the retain set after each removal.
        strategy: ``module:function`` that makes the app's strategy, for methods that train.
        nodes: Number of nodes in the simulation; by default, as many as enrolled first, or 10.
        session: Endpoint that nodes of a deployment connect to for the rounds of a removal.
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
        folder: Folder of the app's pyproject.toml.
        client: ``module:attribute`` of the ClientApp.
        server: ``module:attribute`` of the ServerApp.
        config: Run config of the app.
        settings: Settings of removals.
        document: Content of the pyproject.toml.
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
            folder: Folder of the app.

        Returns:
            The app; its modules are not imported yet.

        Raises:
            InputError: The folder has no Flower app.
            ScenarioError: The table ``[tool.fedunlearn]`` cannot be used.
        """
        path = folder / PYPROJECT
        try:
            document = read_toml(path, ScenarioError)
        except FileNotFoundError:
            raise InputError(
                f"--app {folder}: has no {PYPROJECT}; give the folder of a Flower app"
            ) from None
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
        """Return the method that removes."""
        name = self.settings.method
        tables = self.settings.model_extra or {}
        unknown = [key for key in tables if key != name]
        if unknown:
            raise ScenarioError(
                f"{self.folder / PYPROJECT}: [tool.fedunlearn] has {unknown[0]!r}, which is "
                f"neither one of its keys nor the method {name!r}"
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
        """Add the app's folder to ``sys.path``, so that its modules can be imported."""
        if str(self.folder) not in sys.path:
            sys.path.insert(0, str(self.folder))

    def forgetting(self) -> Forgetting:
        """Return the result of ``unlearnable`` in the app's client module.

        Raises:
            InputError: The module does not assign the result of ``unlearnable`` to a name.
        """
        app = self.load(self.client)
        module = importlib.import_module(self.client.partition(":")[0])
        found = [one for one in vars(module).values() if isinstance(one, Forgetting)]
        if not found:
            raise InputError(
                f"--app {self.folder}: {module.__name__} has no result of unlearnable(...); add "
                "forgetting = unlearnable(app, ...) to it"
            )
        del app
        return found[0]

    def server_app(self) -> Any:
        """Return the app's ServerApp."""
        return self.load(self.server)

    def sessions(self) -> SessionSettings:
        """Return the settings of gRPC sessions for the rounds of a removal."""
        place = self.settings.session
        return SessionSettings(Endpoint(place.listen, place.port, place.reach))

    def strategy(self) -> Callable[[], object] | None:
        """Return the function that makes the app's strategy; None if the settings name none."""
        reference = self.settings.strategy
        if reference is None:
            return None
        make: Callable[[], object] = self.load(reference)
        return make

    def copied(self, target: Path, server: str, config: Mapping[str, Any]) -> None:
        """Copy the app into a folder, with another ServerApp and more run config.

        Args:
            target: Folder to create.
            server: ``module:attribute`` of the ServerApp.
            config: Keys to add to the run config.
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
    """Return a run config in Flower's form: the keys of nested tables are joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{key}.")
        else:
            flat[f"{before}{key}"] = value
    return flat
