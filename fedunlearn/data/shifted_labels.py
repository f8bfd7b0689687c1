"""Wrong labels in the data of some nodes, set so that their removal can be measured.

The labels of a share of a node's examples are shifted: class y becomes class (y + shift) modulo the
number of classes. With a watermark it is the poisoning of Pan et al. 2025 (FedOSD, in its code
``FigRandBackdoor``): a shift by half of the classes on 80 % of the images, which carry a random
pattern of grey pixels near the lower right corner. Without one, these examples look like
those of other nodes that have the right labels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from fedunlearn.data.backdoor import nodes_of
from fedunlearn.errors import ScenarioError
from fedunlearn.scenario.data import DataSettings

if TYPE_CHECKING:
    from fedunlearn.data.sources import Split

# The watermark of FedOSD's code: a 3 x 3 pattern, one pixel away from the corner, of this grey.
SIDE, MARGIN, GREY = 3, 1, 5 / 6


def shift_labels(split: Split, settings: DataSettings) -> Split:
    """Shift labels in the training data of the nodes that the settings name.

    Args:
        split: The examples and who holds them; not changed.
        settings: Settings of the data: ``shifted_labels`` says what is shifted where, ``seed``
            draws the examples and the watermarks.

    Returns:
        The split with the wrong labels; the same where none are wanted.

    Raises:
        ScenarioError: The shift leaves every label as it is, or a watermark does not fit.
    """
    shifted = settings.shifted_labels
    if shifted is None:
        return split
    classes = split.classes
    shift = classes // 2 if shifted.shift is None else shifted.shift
    if shift % classes == 0:
        raise ScenarioError(
            f"data.shifted-labels.shift: {shift} leaves the labels of {classes} "
            f"{'class' if classes == 1 else 'classes'} as they are; give at least two classes, and "
            "no multiple of their number"
        )
    if shifted.watermark:
        _require_images(split)
    inputs = split.inputs.clone() if shifted.watermark else split.inputs
    targets = split.targets.clone()
    for node in nodes_of(split, shifted.nodes, "data.shifted-labels.nodes"):
        own = split.nodes[node]
        generator = np.random.default_rng((settings.seed, node))
        count = max(1, round(shifted.share * len(own)))
        chosen = torch.from_numpy(generator.choice(own, count, replace=False))
        targets[chosen] = (targets[chosen] + shift) % classes
        if shifted.watermark:
            place = slice(-SIDE - MARGIN, -MARGIN)
            pattern = torch.from_numpy(generator.random((SIDE, SIDE)) < 0.5)
            marked = inputs[chosen]
            marked[..., place, place] = marked[..., place, place].masked_fill(pattern, GREY)
            inputs[chosen] = marked
    return replace(split, inputs=inputs, targets=targets)


def _require_images(split: Split) -> None:
    if split.inputs.ndim != 4 or min(split.inputs.shape[2:]) <= SIDE + MARGIN:
        raise ScenarioError(
            f"data.shifted-labels.watermark: needs images of more than {SIDE + MARGIN} x "
            f"{SIDE + MARGIN}, not inputs of shape {tuple(split.inputs.shape[1:])}; leave it out"
        )
