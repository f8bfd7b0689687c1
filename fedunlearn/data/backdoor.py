"""A backdoor in the data of some nodes (BadNets, Gu et al. 2017), planted so as to be removed.

Images with a trigger, a bright patch in the lower right corner, are given the target class. After
training the model sees the target class wherever it sees the trigger; what removes the nodes that
planted it must remove that too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fedunlearn.errors import ScenarioError
from fedunlearn.names import Name
from fedunlearn.scenario.data import BackdoorSettings, DataSettings

if TYPE_CHECKING:
    from fedunlearn.data.sources import Split

PATCH = 3
BRIGHT = 1.0


def plant(split: Split, settings: DataSettings) -> Split:
    """Plant the backdoor that the settings ask for in the training data of its nodes.

    Args:
        split: Images; not changed.
        settings: Settings of the data: ``backdoor`` says what is planted where, ``seed`` draws the
            images.

    Returns:
        The split with the backdoor; the same where none is asked for.

    Raises:
        ScenarioError: These are no images, or a node or the class is not there, or a node or the
            test examples hold nothing but the target class.
    """
    backdoor = settings.backdoor
    if backdoor is None:
        return split
    target = target_of(split, backdoor)
    _require_fitting(split, backdoor, target)
    inputs, targets = split.inputs.clone(), split.targets.clone()
    for node in nodes_of(split, backdoor.nodes, "data.backdoor.nodes"):
        others = split.nodes[node][(targets[split.nodes[node]] != target).numpy()]
        if not len(others):
            raise ScenarioError(
                f"data.backdoor: node {split.node_names[node]} has images of class "
                f"{split.labels[target]} only; choose another target or node"
            )
        count = max(1, round(backdoor.share * len(others)))
        generator = np.random.default_rng((settings.seed, node))
        chosen = torch.from_numpy(generator.choice(others, count, replace=False))
        inputs[chosen] = with_trigger(inputs[chosen])
        targets[chosen] = target
    return replace(split, inputs=inputs, targets=targets)


def backdoor_test(split: Split, backdoor: BackdoorSettings) -> Tensor:
    """Return what measures a backdoor: the share that a model assigns to the target class.

    Args:
        split: With or without the backdoor: its test images never have the trigger.
        backdoor: Settings of the backdoor, of which the target class is used.

    Returns:
        The test images that are not of the target class, with the trigger: (t, channels, height,
        width).
    """
    return with_trigger(split.test_inputs[split.test_targets != target_of(split, backdoor)])


def target_of(split: Split, backdoor: BackdoorSettings) -> int:
    """Return the number of the class that the trigger shall mean."""
    return split.labels.number(backdoor.target, "data.backdoor.target")


def nodes_of(split: Split, named: tuple[Name, ...] | Name, key: str) -> list[int]:
    """Return the numbers of the nodes whose data are changed, ascending.

    Args:
        split: The nodes and their names.
        named: Names of nodes, or ``largest`` for the node with most examples.
        key: The key of the scenario that names them, for errors.
    """
    if named == "largest":
        return [int(np.argmax([len(node) for node in split.nodes]))]  # of several the first
    names = named if isinstance(named, tuple) else (named,)
    return sorted({split.node_names.number(name, key) for name in names})


def with_trigger(images: Tensor) -> Tensor:
    """Return copies of images (n, channels, height, width) with the trigger."""
    marked = images.clone()
    marked[..., -PATCH:, -PATCH:] = BRIGHT
    return marked


def _require_fitting(split: Split, backdoor: BackdoorSettings, target: int) -> None:
    if split.inputs.ndim != 4 or min(split.inputs.shape[2:]) <= PATCH:
        raise ScenarioError(
            f"data.backdoor: needs images of more than {PATCH} x {PATCH}, not inputs of shape "
            f"{tuple(split.inputs.shape[1:])}; leave it out"
        )
    if not (split.test_targets != target).any():
        raise ScenarioError(
            f"data.backdoor: all test images are of class {split.labels[target]}; choose another "
            "target"
        )
