"""How many examples a model classifies right, where its outputs and targets are of classes."""

from __future__ import annotations

from torch import Tensor


def classified(outputs: object, targets: object) -> tuple[int, int]:
    """Count the examples whose class the outputs name.

    Args:
        outputs: Scores (n, classes), or logits (n,) or (n, 1) of the second of two classes.
        targets: Numbers of classes (n,); or zeros and ones of the shape of the outputs.

    Returns:
        How many are right, and how many could be compared: 0 of 0 where targets are no classes.
    """
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        return 0, 0
    if outputs.ndim == 0 or len(outputs) != len(targets) or not len(targets):
        return 0, 0
    if outputs.ndim == 2 and targets.ndim == 1 and not targets.is_floating_point():
        if outputs.shape[1] > 1:
            return int((outputs.argmax(1) == targets).sum()), len(targets)
        outputs = outputs[:, 0]
    if outputs.shape != targets.shape or outputs[0].numel() != 1:
        return 0, 0
    if not bool(((targets == 0) | (targets == 1)).all()):
        return 0, 0
    return int(((outputs > 0) == (targets > 0)).sum()), len(targets)
