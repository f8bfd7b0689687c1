"""The distance from a retrained model that a removal is expected to end at, without an oracle.

Distances are the Jensen-Shannon divergences of predictions on the forget set, in floors. They were
measured over removals of nodes, sets of nodes, classes, classes of a node and records, of 1 % to
51 % of the data, on digits, Fashion-MNIST and AG News, with different partitions and numbers of
nodes (docs: Concepts, "Choosing a plan", has the figures and those of removals that took no part).

- After a step they grow with the leverage rho of the forget set (validity.py): where rho is near 1
  the retain set says nothing about a direction in which the model is to move.
- After rounds from a corrected checkpoint they depend on the share of training that these rounds
  stand for, and hardly on the leverage: what the step there leaves over is a share of its length.

Both bound about nine removals in ten from above; half of them end at less than half of it.
"""

from __future__ import annotations

# floors = STEP (rho / (1 - rho))^STEP_POWER
STEP, STEP_POWER = 2.0, 0.9
# floors = ROUNDS (1 - share of training anew)^ROUNDS_POWER
ROUNDS, ROUNDS_POWER = 6.0, 1.6
# After rounds from half of the way back, whose start was not corrected.
REWOUND = 3.5
# Rounds add noise of their own to a step that is close already.
AT_MOST = 1.2


def after_step(leverage: float) -> float:
    """Return the expected distance after a step, in floors.

    Args:
        leverage: The leverage rho of the forget set, in [0, 1].
    """
    leverage = min(max(leverage, 0.0), 1.0 - 1e-6)
    return float(STEP * (leverage / (1.0 - leverage)) ** STEP_POWER)


def after_rounds(leverage: float, anew: float | None) -> float:
    """Return the expected distance after the rest of training from a checkpoint, in floors.

    Args:
        leverage: The leverage rho of the forget set, in [0, 1].
        anew: The share of training that the rounds stand for; None where they began on the way back
            to the initial weights.
    """
    if anew is None:
        return REWOUND
    return min(AT_MOST * after_step(leverage), float(ROUNDS * (1.0 - anew) ** ROUNDS_POWER))
