"""Relearn time: how soon a model knows again what it was to forget."""

from __future__ import annotations

import math

from torch import Tensor

from fedunlearn.risk.local_rules import LocalPlan
from fedunlearn.risk.local_training import train_locally
from fedunlearn.risk.objective import EmpiricalRisk
from fedunlearn.settings import TrainingSettings

EPOCHS = 10
MARGIN = 1.05
RATE = 0.25


def relearn_epochs(
    weights: Tensor, forget: EmpiricalRisk, settings: TrainingSettings, wanted: float
) -> float:
    """Train on the forget set alone until a model is as good there as the trained one was.

    Source: Golatkar, Achille, Soatto 2020, "Eternal sunshine of the spotless net"; Tarun,
    Chundawat, Mandal, Kankanhalli 2023, "Fast yet effective machine unlearning". Plain SGD with
    training's batches and weight decay, at a quarter of its first rate: slow enough that models
    differ by more than a batch. The order is the same for every model.

    Args:
        weights: To start from (d,).
        forget: The risk on the forget set.
        settings: Of training.
        wanted: Mean loss of the trained model on the forget set.

    Returns:
        Epochs until the loss is at most 1.05 times the wanted one, in steps of one batch: 0 for a
        model that has forgotten nothing, 10 for one that has not got there by then; nan where the
        loss is no number.
    """
    rate = RATE * settings.learning_rate
    order = (settings.seed,)
    plan = LocalPlan(EPOCHS, settings.batch_size, rate, settings.weight_decay, order)
    one_step = LocalPlan(1, settings.batch_size, rate, settings.weight_decay, order)
    in_an_epoch = math.ceil(len(forget) / settings.batch_size)
    for steps, batch in enumerate(plan.batches((forget.inputs, forget.targets))):
        loss = forget.value(weights) / len(forget)
        if math.isnan(loss):
            return math.nan
        if loss <= MARGIN * wanted:
            return steps / in_an_epoch
        weights = train_locally(forget.model, forget.loss, batch, weights, one_step)
    return float(EPOCHS)
