"""Removes data from a federated model without retraining it.

The names below are loaded when first used, so that ``import fedunlearn`` loads neither torch nor
Flower.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedunlearn.federation.federation import Federation as Federation
    from fedunlearn.federation.federation import TrainedModel as TrainedModel
    from fedunlearn.federation.forget import ForgetSet as ForgetSet
    from fedunlearn.federation.training import TrainingPlan as TrainingPlan
    from fedunlearn.flower.simulation import simulate as simulate
    from fedunlearn.parameters import flatten as flatten
    from fedunlearn.parameters import initial_weights as initial_weights
    from fedunlearn.parameters import load as load
    from fedunlearn.recording.storage import open_recording as open_recording
    from fedunlearn.recording.storage import save_recording as save_recording
    from fedunlearn.risk.task import Task as Task
    from fedunlearn.scenario.settings import TrainingSettings as TrainingSettings
    from fedunlearn.unlearning.cubic_newton import CubicNewton as CubicNewton
    from fedunlearn.unlearning.cubic_newton import CubicNewtonSettings as CubicNewtonSettings
    from fedunlearn.unlearning.fine_tune import FineTune as FineTune
    from fedunlearn.unlearning.instant_cubic_newton import InstantCubicNewton as InstantCubicNewton
    from fedunlearn.unlearning.instant_cubic_newton import (
        InstantCubicNewtonSettings as InstantCubicNewtonSettings,
    )
    from fedunlearn.unlearning.method import Unlearned as Unlearned
    from fedunlearn.unlearning.method import UnlearningMethod as UnlearningMethod
    from fedunlearn.unlearning.newton_damped import NewtonDamped as NewtonDamped
    from fedunlearn.unlearning.newton_pinv import NewtonPinv as NewtonPinv
    from fedunlearn.unlearning.rewind import Rewind as Rewind
    from fedunlearn.unlearning.stochastic_cubic_newton import (
        StochasticCubicNewton as StochasticCubicNewton,
    )

_HOME = {
    "CubicNewton": "unlearning.cubic_newton",
    "CubicNewtonSettings": "unlearning.cubic_newton",
    "Federation": "federation.federation",
    "FineTune": "unlearning.fine_tune",
    "ForgetSet": "federation.forget",
    "InstantCubicNewton": "unlearning.instant_cubic_newton",
    "InstantCubicNewtonSettings": "unlearning.instant_cubic_newton",
    "NewtonDamped": "unlearning.newton_damped",
    "NewtonPinv": "unlearning.newton_pinv",
    "Rewind": "unlearning.rewind",
    "StochasticCubicNewton": "unlearning.stochastic_cubic_newton",
    "Task": "risk.task",
    "TrainedModel": "federation.federation",
    "TrainingPlan": "federation.training",
    "TrainingSettings": "scenario.settings",
    "Unlearned": "unlearning.method",
    "UnlearningMethod": "unlearning.method",
    "flatten": "parameters",
    "initial_weights": "parameters",
    "load": "parameters",
    "open_recording": "recording.storage",
    "save_recording": "recording.storage",
    "simulate": "flower.simulation",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fedunlearn' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fedunlearn.{_HOME[name]}"), name)
