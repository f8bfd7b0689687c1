"""Removals in a user's own ServerApp, after training.

Example::

    result = strategy.start(grid, arrays, num_rounds=10)
    with unlearning(grid, context, model=Net, trained=result.arrays, initial=arrays) as removal:
        arrays = removal.forget(nodes=[2])
    print(removal.result)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor, nn

from fedunlearn.errors import InputError
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.flower.model_arrays import ModelArrays
from fedunlearn.flower.own_federation import open_own_federation
from fedunlearn.flower.remembering_strategy import RememberingStrategy
from fedunlearn.flower.removal import Known, Removal
from fedunlearn.flower.sessions import SessionSettings
from fedunlearn.flower.takeover import hand_over, handing_over
from fedunlearn.model_state import ModelState
from fedunlearn.networks import VAR, build_model, running_statistics
from fedunlearn.parameters import require_finite
from fedunlearn.settings import TrainingSettings

DEADLINE_S = 600.0

# A batch of this size makes every node take one step in an epoch, so that all examples count alike,
# where the batches of training are not known.
ONE_STEP = 2**31 - 1


@contextmanager
def unlearning(
    grid: Grid,
    context: Context,
    *,
    model: Callable[[], nn.Module],
    trained: ArrayRecord,
    initial: ArrayRecord | None = None,
    strategy: RememberingStrategy | Callable[[], Strategy] | None = None,
    training: TrainingSettings | None = None,
    train_config: ConfigRecord | None = None,
    num_nodes: int | None = None,
    deadline_s: float = DEADLINE_S,
    sessions: SessionSettings | None = None,
) -> Iterator[Removal]:
    """Open the nodes of a user's app for removals, after training.

    Args:
        grid: The grid of the ServerApp's main function.
        context: The context of the same function.
        model: Builds the model, as on the nodes.
        trained: The arrays at the end of training: ``result.arrays``.
        initial: The arrays at the start of training. Without them, and without a remembering
            strategy, the step is taken at the trained weights, and some methods cannot be used.
        strategy: A RememberingStrategy around the strategy that trained, or a function that makes
            the user's strategy; for methods that train and for recovery rounds. These run the
            nodes' own ``train``, which excludes the examples that ``kept`` drops.
        training: Settings of the nodes' training, as far as methods use them (weight decay,
            rounds). If they are left out, no weight decay is assumed.
        train_config: Values that training sent to the nodes besides the arrays; a remembering
            strategy records them.
        num_nodes: Number of nodes that must be connected. If it is left out, those that are.
        deadline_s: Seconds for every round.
        sessions: Settings of sessions over gRPC streams on a deployment; None for Flower's
            messages.

    Yields:
        The object whose ``forget`` removes data.

    Raises:
        InputError: Model and arrays do not belong together, or an argument cannot be used.
        FederationError: A node cannot answer.
    """
    del context
    if isinstance(model, nn.Module) or not callable(model):
        raise InputError("unlearning: model is not a function; give what builds it, as Net")
    remembering = strategy if isinstance(strategy, RememberingStrategy) else None
    if remembering is not None:
        initial = remembering.initial if initial is None else initial
        train_config = remembering.train_config if train_config is None else train_config
    elif isinstance(strategy, Strategy):
        raise InputError(
            "unlearning: strategy has trained already, and its moments may hold the forget set; "
            "train with RememberingStrategy(strategy), or give a function that makes a new one"
        )
    form = ModelArrays.of(build_model(model).eval(), trained, "trained")
    weights = form.weights(trained)
    require_finite(weights, "trained")
    _require_variances(form.state(trained))
    start = None
    if initial is not None:
        begun = ModelArrays.of(form.model, initial, "initial")
        start = begun.weights(initial)
        initial = form.record(start, {**form.state(trained), **begun.state(initial)})
    rounds = remembering.rounds if remembering is not None else 0
    settings = training or TrainingSettings(weight_decay=0.0, rounds=max(1, rounds))
    own = open_own_federation(
        grid,
        form,
        trained,
        initial=initial,
        strategy=strategy.anew if isinstance(strategy, RememberingStrategy) else strategy,
        train_config=train_config,
        least=num_nodes or 1,
        deadline_s=deadline_s,
        sessions=sessions,
        with_classes=handing_over(),
    )
    if remembering is not None and remembering.participants:
        own.participants = frozenset().union(*remembering.participants.values())
    if "batch_size" not in settings.model_fields_set:
        settings = settings.model_copy(update={"batch_size": own.batch_size or ONE_STEP})
    model_now = TrainedModel(
        weights,
        start,
        settings,
        state=ModelState(form.state(trained)),
        settings_known=training is not None,
    )
    try:
        hand_over(own, model_now)
    except BaseException:
        own.federation.close()
        raise
    known = Known(
        settings=training is not None,
        initial=start is not None,
        rounds=rounds > 0 or training is not None,
        strategy=strategy is not None,
    )
    try:
        yield Removal(own, form, model_now, form.state(trained), known)
    finally:
        own.federation.close()


def _require_variances(state: Mapping[str, Tensor]) -> None:
    """Reject running variances that are not valid variances.

    Raises:
        InputError: Some are negative or not finite; the message gives the cause and the remedy.
    """
    for layer in running_statistics(state):
        variances = state[layer + VAR]
        if not bool((variances >= 0).all()):
            raise InputError(
                f"trained: {layer + VAR!r} holds variances that are negative or not finite, as "
                "strategies with moments (FedAdam, FedYogi) make them; let the strategy average "
                "running statistics as FedAvg does, and train again"
            )
