"""Removal of data from a federated model without retraining it.

The names below are loaded when first used, so that ``import fedunlearn`` loads neither torch nor
Flower.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedunlearn.data.scenario_data import ScenarioData as ScenarioData
    from fedunlearn.federation.federation import Federation as Federation
    from fedunlearn.federation.trained_model import TrainedModel as TrainedModel
    from fedunlearn.federation.training import TrainingPlan as TrainingPlan
    from fedunlearn.flower.simulation import simulate as simulate
    from fedunlearn.models.heads import UnitBall as UnitBall
    from fedunlearn.networks import build_model as build_model
    from fedunlearn.parameters import flatten as flatten
    from fedunlearn.parameters import flatten_state as flatten_state
    from fedunlearn.parameters import initial_weights as initial_weights
    from fedunlearn.parameters import load as load
    from fedunlearn.questions.forget import ForgetSet as ForgetSet
    from fedunlearn.recording.storage import open_recording as open_recording
    from fedunlearn.recording.storage import save_recording as save_recording
    from fedunlearn.risk.linear_head import one_vs_rest_loss as one_vs_rest_loss
    from fedunlearn.risk.linear_head import squared_loss as squared_loss
    from fedunlearn.risk.task import Task as Task
    from fedunlearn.scenario.data import DataSettings as DataSettings
    from fedunlearn.settings import TrainingSettings as TrainingSettings
    from fedunlearn.unlearning.auto import Auto as Auto
    from fedunlearn.unlearning.auto import AutoSettings as AutoSettings
    from fedunlearn.unlearning.certified_head import CertifiedHead as CertifiedHead
    from fedunlearn.unlearning.certified_head import CertifiedHeadSettings as CertifiedHeadSettings
    from fedunlearn.unlearning.cubic_newton import CubicNewton as CubicNewton
    from fedunlearn.unlearning.cubic_newton import CubicNewtonSettings as CubicNewtonSettings
    from fedunlearn.unlearning.exact_head import ExactHead as ExactHead
    from fedunlearn.unlearning.exact_head import ExactHeadSettings as ExactHeadSettings
    from fedunlearn.unlearning.fed_eraser import FedEraser as FedEraser
    from fedunlearn.unlearning.fed_eraser import FedEraserSettings as FedEraserSettings
    from fedunlearn.unlearning.fed_osd import FedOsd as FedOsd
    from fedunlearn.unlearning.fed_osd import FedOsdSettings as FedOsdSettings
    from fedunlearn.unlearning.fine_tune import FineTune as FineTune
    from fedunlearn.unlearning.fine_tune import FineTuneSettings as FineTuneSettings
    from fedunlearn.unlearning.gradient_ascent import GradientAscent as GradientAscent
    from fedunlearn.unlearning.gradient_ascent import (
        GradientAscentSettings as GradientAscentSettings,
    )
    from fedunlearn.unlearning.instant_cubic_newton import InstantCubicNewton as InstantCubicNewton
    from fedunlearn.unlearning.instant_cubic_newton import (
        InstantCubicNewtonSettings as InstantCubicNewtonSettings,
    )
    from fedunlearn.unlearning.method import Unlearned as Unlearned
    from fedunlearn.unlearning.method import UnlearningMethod as UnlearningMethod
    from fedunlearn.unlearning.newton_damped import NewtonDamped as NewtonDamped
    from fedunlearn.unlearning.newton_damped import NewtonDampedSettings as NewtonDampedSettings
    from fedunlearn.unlearning.newton_pinv import NewtonPinv as NewtonPinv
    from fedunlearn.unlearning.newton_pinv import NewtonPinvSettings as NewtonPinvSettings
    from fedunlearn.unlearning.rapid_retraining import RapidRetraining as RapidRetraining
    from fedunlearn.unlearning.rapid_retraining import (
        RapidRetrainingSettings as RapidRetrainingSettings,
    )
    from fedunlearn.unlearning.retrain import Retrain as Retrain
    from fedunlearn.unlearning.retrain import RetrainSettings as RetrainSettings
    from fedunlearn.unlearning.rewind import Rewind as Rewind
    from fedunlearn.unlearning.rewind import RewindSettings as RewindSettings
    from fedunlearn.unlearning.scrub import Scrub as Scrub
    from fedunlearn.unlearning.scrub import ScrubSettings as ScrubSettings
    from fedunlearn.unlearning.stochastic_cubic_newton import (
        StochasticCubicNewton as StochasticCubicNewton,
    )
    from fedunlearn.unlearning.stochastic_cubic_newton import (
        StochasticCubicNewtonSettings as StochasticCubicNewtonSettings,
    )
    from fedunlearn.unlearning.weight_negation import WeightNegation as WeightNegation
    from fedunlearn.unlearning.weight_negation import (
        WeightNegationSettings as WeightNegationSettings,
    )

_HOME = {
    "Auto": "unlearning.auto",
    "AutoSettings": "unlearning.auto",
    "CertifiedHead": "unlearning.certified_head",
    "CertifiedHeadSettings": "unlearning.certified_head",
    "CubicNewton": "unlearning.cubic_newton",
    "CubicNewtonSettings": "unlearning.cubic_newton",
    "DataSettings": "scenario.data",
    "ExactHead": "unlearning.exact_head",
    "ExactHeadSettings": "unlearning.exact_head",
    "FedEraser": "unlearning.fed_eraser",
    "FedEraserSettings": "unlearning.fed_eraser",
    "FedOsd": "unlearning.fed_osd",
    "FedOsdSettings": "unlearning.fed_osd",
    "Federation": "federation.federation",
    "FineTune": "unlearning.fine_tune",
    "FineTuneSettings": "unlearning.fine_tune",
    "ForgetSet": "questions.forget",
    "GradientAscent": "unlearning.gradient_ascent",
    "GradientAscentSettings": "unlearning.gradient_ascent",
    "InstantCubicNewton": "unlearning.instant_cubic_newton",
    "InstantCubicNewtonSettings": "unlearning.instant_cubic_newton",
    "NewtonDamped": "unlearning.newton_damped",
    "NewtonDampedSettings": "unlearning.newton_damped",
    "NewtonPinv": "unlearning.newton_pinv",
    "NewtonPinvSettings": "unlearning.newton_pinv",
    "RapidRetraining": "unlearning.rapid_retraining",
    "RapidRetrainingSettings": "unlearning.rapid_retraining",
    "Retrain": "unlearning.retrain",
    "RetrainSettings": "unlearning.retrain",
    "Rewind": "unlearning.rewind",
    "RewindSettings": "unlearning.rewind",
    "ScenarioData": "data.scenario_data",
    "Scrub": "unlearning.scrub",
    "ScrubSettings": "unlearning.scrub",
    "StochasticCubicNewton": "unlearning.stochastic_cubic_newton",
    "StochasticCubicNewtonSettings": "unlearning.stochastic_cubic_newton",
    "Task": "risk.task",
    "TrainedModel": "federation.trained_model",
    "TrainingPlan": "federation.training",
    "TrainingSettings": "settings",
    "UnitBall": "models.heads",
    "Unlearned": "unlearning.method",
    "UnlearningMethod": "unlearning.method",
    "WeightNegation": "unlearning.weight_negation",
    "WeightNegationSettings": "unlearning.weight_negation",
    "build_model": "networks",
    "flatten": "parameters",
    "flatten_state": "parameters",
    "initial_weights": "parameters",
    "load": "parameters",
    "one_vs_rest_loss": "risk.linear_head",
    "open_recording": "recording.storage",
    "save_recording": "recording.storage",
    "simulate": "flower.simulation",
    "squared_loss": "risk.linear_head",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("fedunlearn")
    if name not in _HOME:
        raise AttributeError(f"module 'fedunlearn' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fedunlearn.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), "__version__", *__all__])
