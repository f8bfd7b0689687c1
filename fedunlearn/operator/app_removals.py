"""Removals in a user's own app: the part that runs inside of the app's federation."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn

from fedunlearn.errors import InputError, VerificationError
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.files import write_whole
from fedunlearn.flower.own_apps import Known, OpenOwn
from fedunlearn.flower.own_federation import OwnFederation
from fedunlearn.flower.takeover import TakeOver
from fedunlearn.names import Names
from fedunlearn.networks import build_model
from fedunlearn.operator.app_folder import AppFolder
from fedunlearn.operator.model_store import ModelStore
from fedunlearn.operator.site import Site
from fedunlearn.operator.worker_loop import MODELS, NAMES, WorkPlace, work_in
from fedunlearn.service.state import ServiceState
from fedunlearn.unlearning.method import UnlearningMethod
from fedunlearn.worker.model_folder import ModelFolder
from fedunlearn.worker.worker import Worked

KEYS = "node-keys.json"
WORKER = "flower"


class _NamesFile(BaseModel):
    """The names of nodes and classes in the state folder."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    nodes: tuple[str, ...]
    classes: tuple[str, ...]


@dataclass
class AppRemovals:
    """Carries out due requests in a user's app.

    Attributes:
        app: The app.
        state: The state folder and its store.
        idle_s: Seconds without due requests after which the worker ends; None to wait forever.
        report: Receives the outcome of every job.
        stop: Event that another thread sets to end the worker after the current job.
        deployed: Whether nodes run on other machines, so that rounds use gRPC streams.
    """

    app: AppFolder
    state: ServiceState
    idle_s: float | None = 0.0
    report: Callable[[Worked], None] = lambda worked: None
    stop: threading.Event = field(default_factory=threading.Event)
    deployed: bool = False

    def take_over(self, config: Mapping[str, object]) -> TakeOver:
        """Return the function that registers a newly trained model and carries out due requests.

        Args:
            config: The run config.
        """
        del config
        return lambda own, trained: self._work(own, trained)

    def run(self, opened: OpenOwn, config: Mapping[str, object]) -> None:
        """Open the federation at the current model and carry out due requests.

        Args:
            opened: Function that opens the federation.
            config: The run config.
        """
        del config
        names = self._known_names()
        assert names is not None  # the names are registered together with the first model
        place = self._place()
        refused = place.refused
        sessions = self.app.sessions() if self.deployed else None
        known = Known(names.nodes, refused, len(names.nodes) - len(refused), sessions)
        own = opened(self._make_model(), self._current(), known, self.app.strategy())
        try:
            self._work(own, None)
        finally:
            own.federation.close()

    def _work(self, own: OwnFederation, trained: TrainedModel | None) -> None:
        """Carry out due requests in an open federation."""
        self._require_durable(own)
        if self.deployed:  # a simulation draws new keys for every run
            self._require_keys(own)
        known = self._known_names()
        classes = max((node.classes for node in own.enrolled.values()), default=0)
        labels = Names.numbered("class", classes) if known is None else known.labels
        settings = self.app.settings
        method = self._method(trained or self._current())
        site = Site(
            nodes=own.names,
            labels=labels,
            model=lambda: build_model(self._make_model()).eval(),
            name=settings.method,
            method=method,
            recovery_rounds=settings.recovery_rounds,
            uses_kept=own.kept,
            carried=frozenset(own.federation.state),
        )
        work_in(site, own.federation, self._place(), trained)

    def _method(self, trained: TrainedModel) -> UnlearningMethod[Any]:
        """Return the app's method; it linearises at the trained weights if no others are known."""
        method = self.app.method()
        if trained.initial is None and "linearise_at" in type(method.settings).model_fields:
            changed = method.settings.model_copy(update={"linearise_at": 1.0})
            return type(method)(changed)
        return method

    def _make_model(self) -> Callable[[], nn.Module]:
        """Return the function that builds the app's model."""
        return self.app.forgetting().model_with(dict(self.app.config))

    def _place(self) -> WorkPlace:
        return WorkPlace(
            folder=self.state.folder,
            store=self.state.store,
            issuer=self.state.issuer,
            name=WORKER,
            idle_s=self.idle_s,
            stop=self.stop,
            on_job=self.report,
        )

    @property
    def trained(self) -> bool:
        """Whether the state folder has a model."""
        return self.state.store.current() is not None

    @property
    def node_count(self) -> int | None:
        """Number of nodes when the first model was registered; None before that."""
        known = self._known_names()
        return None if known is None else len(known.nodes)

    def _current(self) -> TrainedModel:
        current = self.state.store.current()
        assert current is not None  # the callers check it
        models = ModelFolder(self.state.folder / MODELS)
        model = build_model(self._make_model()).eval()
        training = self.state.folder / "training"
        return ModelStore(models, training, model, self.app.method()).load(current.sha256)

    def _known_names(self) -> Site | None:
        """Return the names that were registered with the first model; None before that."""
        try:
            text = (self.state.folder / NAMES).read_bytes()
        except FileNotFoundError:
            return None
        try:
            found = _NamesFile.model_validate_json(text)
        except ValidationError:
            raise VerificationError(
                f"{self.state.folder / NAMES}: has no names of nodes and classes; restore the file"
            ) from None
        return Site(
            nodes=Names("node", found.nodes),
            labels=Names("class", found.classes),
            model=self._make_model(),
            name=self.app.settings.method,
            method=self.app.method(),
        )

    def _require_durable(self, own: OwnFederation) -> None:
        without = [node.name for node in own.enrolled.values() if not node.durable]
        if without:
            raise InputError(
                f"node {', '.join(without)}: has no folder for its commitments and tombstones, "
                "which requests for its records need; name one as records in its node config "
                "(--node-config 'records=\"/var/lib/...\"')"
            )

    def _require_keys(self, own: OwnFederation) -> None:
        """Check that nodes with SuperNode keys enrol with the keys that they had before.

        Raises:
            VerificationError: A node enrols with another key than before, or with another node's.
        """
        path = self.state.folder / KEYS
        known: dict[str, str] = {}
        with suppress(FileNotFoundError):
            known = json.loads(path.read_bytes())
        for node in own.enrolled.values():
            if not node.key:
                continue
            before = known.setdefault(node.name, node.key)
            if before != node.key:
                raise VerificationError(
                    f"node {node.name} enrols with another SuperNode key than before "
                    f"({node.key[:12]} instead of {before[:12]}); if its key was replaced, "
                    f"change it in {path}"
                )
            others = [name for name, key in known.items() if key == node.key and name != node.name]
            if others:
                raise VerificationError(
                    f"node {node.name} enrols with the SuperNode key of node {others[0]}; give "
                    "every SuperNode its own key"
                )
        write_whole(path, json.dumps(known, indent=1, ensure_ascii=False) + "\n")
