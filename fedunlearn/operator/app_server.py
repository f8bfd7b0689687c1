"""The ServerApps that ``fedunlearn work --app`` runs by ``flwr run`` instead of the user's.

Flower imports them by their names; the run config contains the path of the state folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from fedunlearn.errors import FedunlearnError
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.files import write_whole
from fedunlearn.flower.own_apps import OpenOwn, removal_app, training_app
from fedunlearn.flower.own_federation import OwnFederation
from fedunlearn.flower.takeover import TakeOver
from fedunlearn.operator.app_folder import APP, DATABASE, OUT, STATE, AppFolder
from fedunlearn.operator.app_removals import AppRemovals
from fedunlearn.service.state import ServiceState, open_state

FAILURE = "failure.txt"


def _reported(config: Mapping[str, object], act: Callable[[], None]) -> None:
    """Write a failure as one line into a file, for the worker that started the run."""
    try:
        act()
    except FedunlearnError as error:
        write_whole(Path(str(config[OUT])) / FAILURE, f"{' '.join(str(error).split())}\n")
        raise


def _app(config: Mapping[str, object]) -> AppFolder:
    return AppFolder.read(Path(str(config[APP])))


def _state(config: Mapping[str, object]) -> AbstractContextManager[ServiceState]:
    return open_state(Path(str(config[STATE])), str(config[DATABASE]) or None, create=False)


def _take_over(config: Mapping[str, object]) -> TakeOver:
    def taken(own: OwnFederation, trained: TrainedModel) -> None:
        def act() -> None:
            with _state(config) as state:
                AppRemovals(_app(config), state, deployed=True).take_over(config)(own, trained)

        _reported(config, act)

    return taken


def _remove(opened: OpenOwn, config: Mapping[str, object]) -> None:
    def act() -> None:
        with _state(config) as state:
            AppRemovals(_app(config), state, deployed=True).run(opened, config)

    _reported(config, act)


removal = removal_app(_remove)
training = training_app(lambda config: _app(config).server_app(), _take_over)
