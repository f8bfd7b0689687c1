"""The sentences of a run's report, made from its numbers alone.

Nothing here decides what is good. The multiple of the floor that counts as near is printed on the
page.
"""

from __future__ import annotations

from fedunlearn.reporting.results import Floor, RequestResults
from fedunlearn.reporting.table import recording_cost
from fedunlearn.reporting.table_columns import COLUMN_OF

NEAR = 1.5


def formatted(key: str, value: float | None) -> str:
    """Return a metric's value as the tables show it; a dash where it is not known."""
    return "\N{EN DASH}" if value is None else COLUMN_OF[key].show(value)


def lead(request: RequestResults) -> str:
    """Say what left, how far the trained model is from retraining, and what the floor is."""
    forget, before = request.forget, request.trained.forget_js
    gone = forget.forgotten_examples
    total = gone + forget.retained_examples
    text = (
        f"{gone} of {total} training examples ({formatted('forget_accuracy', gone / total)} %) "
        f"leave. On them the trained model is {_js(before)} nats (forget JS) from a model "
        "retrained without them. "
    )
    floor = request.floor.forget_js
    if floor is None:
        return text + (
            "The floor, the divergence between two such models due to their seeds alone, was not "
            "measured: only one was retrained."
        )
    text += f"Models retrained from different seeds are {_js(floor)} apart: the floor. "
    if before is not None and before <= floor:
        text += (
            "So the trained model was within the floor to begin with: by this measure there is "
            "little to remove, and it can hardly distinguish the methods."
        )
    return text


def finding(request: RequestResults, name: str, recovery: int) -> str:
    """Say what one method did.

    Args:
        request: The results of the request.
        name: Name of the method.
        recovery: Number of recovery rounds.

    Returns:
        Sentences whose subject is the method.
    """
    entry, trained, retrained = request.methods[name], request.trained, request.retrained
    before, after = trained.forget_js, entry.forget_js
    if after is None or before is None:
        return "gave a model whose predictions are not numbers. Do not use it."
    verb = "lowers" if after < before else "leaves" if after == before else "raises"
    change = f"at {_js(after)}" if after == before else f"from {_js(before)} to {_js(after)}"
    text = f"{verb} forget JS {change}"
    if entry.rounds is not None:
        text += f" in {formatted('rounds', entry.rounds)} rounds"
    if entry.before_recovery is not None:
        first = _js(entry.before_recovery.forget_js)
        text += f", the last {recovery} of them recovery ({first} before)"
    rounds = formatted("rounds", retrained.rounds)
    text += f"; retraining takes {rounds}. {_verdict(before, after, request.floor)}"
    if entry.recording is not None:
        text += f" Recording when training ended took {recording_cost(entry.recording)} more."
    accuracy = [
        formatted("retain_accuracy", model.retain_accuracy) for model in (entry, trained, retrained)
    ]
    return text + (
        " Accuracy on the retain set is {} %, against {} % before and {} % retrained.".format(
            *accuracy
        )
    )


def _verdict(before: float, after: float, floors: Floor) -> str:
    worse = "further from the retrained model than before any removal"
    floor = floors.forget_js
    if floor is None:
        return f"That is {worse}." if after > before else ""
    if after <= floor:
        where = "That is within the floor"
        return f"{where}, though {worse}." if after > before else f"{where}."
    times = f"{after / floor:.1f} times the floor" if floor > 0.0 else "above a floor of zero"
    if after > before:
        return f"That is {times} and {worse}."
    return f"That is {times}: {'near it' if after <= NEAR * floor else 'not near it'}."


def _js(value: float | None) -> str:
    return formatted("forget_js", value)
