"""The distance from a retrained model that a removal is expected to end at, without an oracle.

Distances are the Jensen-Shannon divergences of predictions on the forget set, in floors. They were
measured over removals of nodes, sets of nodes, classes, classes of a node and records, of 1 % to
51 % of the data, on digits, Fashion-MNIST and AG News, with different partitions and numbers of
nodes (docs: Concepts, "Choosing a plan", has the figures and those of removals that took no part).

- After a step they grow with the leverage rho of the forget set along the step (validity.py): where
  it is near 1 the retain set says nothing about the direction in which the model moves.
- After rounds from a corrected checkpoint they fall with the share of training that these rounds
  stand for, and depend less on the leverage.

Both bound about nine removals in ten from above; half of them end at less than half of it.
"""

from __future__ import annotations

# floors = STEP (rho / (1 - rho))^STEP_POWER
STEP, STEP_POWER = 1.2, 1.0
# floors = ROUNDS (rho / (1 - rho))^ROUNDS_POWER (1 - share of training anew)
ROUNDS, ROUNDS_POWER = 3.5, 0.4
# After rounds from half of the way back, whose start was not corrected.
REWOUND = 4.0
# Rounds add noise of their own to a step that is close already.
AT_MOST = 1.2


def after_step(leverage: float) -> float:
    """Return the expected distance after a step, in floors.

    Args:
        leverage: The leverage rho of the forget set along the step, in [0, 1].
    """
    return float(STEP * _odds(leverage) ** STEP_POWER)


def after_rounds(leverage: float, anew: float | None, *, checked: bool = True) -> float:
    """Return the expected distance after the rest of training from a checkpoint, in floors.

    Args:
        leverage: The leverage rho of the forget set along the step, in [0, 1].
        anew: The share of training that the rounds stand for; None where they began on the way back
            to the initial weights.
        checked: Whether the step did not fail its check; otherwise nothing is expected of it.
    """
    if anew is None:
        return REWOUND
    after = float(ROUNDS * _odds(leverage) ** ROUNDS_POWER * (1.0 - anew))
    return min(AT_MOST * after_step(leverage), after) if checked else after


def _odds(leverage: float) -> float:
    leverage = min(max(leverage, 0.0), 1.0 - 1e-6)
    return leverage / (1.0 - leverage)
