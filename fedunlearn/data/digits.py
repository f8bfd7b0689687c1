"""The digits of scikit-learn: 1,797 images of 8 x 8, which need no file."""

from __future__ import annotations

import numpy as np
import torch

from fedunlearn.data.draw import hold_out
from fedunlearn.data.scenario_data import ScenarioData
from fedunlearn.scenario.data import DataSettings


def read_digits(settings: DataSettings) -> ScenarioData:
    """Return the digits, of which a part that is drawn with the seed is held out for testing."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    inputs = torch.tensor(bunch.images[:, None] / 16.0, dtype=torch.float32)
    targets = torch.tensor(bunch.target, dtype=torch.int64)
    one_group = np.zeros(len(inputs), dtype=np.int64)
    train, test = map(torch.from_numpy, hold_out(one_group, settings.seed))
    return ScenarioData((inputs[train], targets[train]), (inputs[test], targets[test]))
