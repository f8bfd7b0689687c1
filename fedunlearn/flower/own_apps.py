"""ServerApps that a worker runs in place of a user's own: training first, then removals.

A user's ServerApp trains and calls ``unlearning(...)``. Where there is no model yet, a worker runs
this app, takes over the open federation at that call, and ends the run when its work is done. Later
removals open the federation directly, without the user's ServerApp.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy
from torch import nn

from fedunlearn.errors import InputError
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.flower.model_arrays import ModelArrays
from fedunlearn.flower.own_federation import OwnFederation, open_own_federation
from fedunlearn.flower.sessions import SessionSettings
from fedunlearn.flower.takeover import TakenOver, TakeOver, taking_over
from fedunlearn.names import Names
from fedunlearn.networks import build_model
from fedunlearn.parameters import trainable

DEADLINE_S = 600.0


@dataclass(frozen=True)
class Known:
    """The known facts about a federation that enrolled before.

    Attributes:
        names: Names of all nodes that have ever enrolled.
        refused: Names of the nodes that have left.
        least: Number of nodes that must be connected.
        sessions: Settings of sessions over gRPC streams; None for Flower's messages.
    """

    names: Names
    refused: Collection[str]
    least: int
    sessions: SessionSettings | None = None


class OpenOwn(Protocol):
    """A function that opens the federation of a user's app at a model."""

    def __call__(
        self,
        model: Callable[[], nn.Module],
        trained: TrainedModel,
        known: Known,
        strategy: Callable[[], object] | None,
        /,
    ) -> OwnFederation:
        """Open the federation.

        Args:
            model: Builds the user's model.
            trained: The current model.
            known: The known facts about the nodes that enrolled before.
            strategy: Makes the user's strategy, where it is known.
        """
        ...


def training_app(
    user: Callable[[Mapping[str, object]], ServerApp],
    taker: Callable[[Mapping[str, object]], TakeOver],
) -> ServerApp:
    """Build a ServerApp that trains by the user's own app and hands the result over.

    Args:
        user: Returns, for a run config, the user's ServerApp, which calls ``unlearning`` after
            training.
        taker: Returns, for a run config, the function that takes over.

    Returns:
        The app.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        with taking_over(taker(context.run_config)):
            try:
                user(context.run_config)(grid, context)
            except TakenOver:
                return
        raise InputError(
            "the app's ServerApp has trained and has not called unlearning(...); call it after "
            "strategy.start(...), so that the model is registered"
        )

    return app


def removal_app(run: Callable[[OpenOwn, Mapping[str, object]], None]) -> ServerApp:
    """Build a ServerApp that removes from a model that was trained before.

    Args:
        run: Called with the function that opens the federation, and the run config.

    Returns:
        The app.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        def opened(
            model: Callable[[], nn.Module],
            trained: TrainedModel,
            known: Known,
            strategy: Callable[[], object] | None,
            /,
        ) -> OwnFederation:
            built = build_model(model).eval()
            names = (*trainable(built), *trained.state)
            form = ModelArrays(built, {name: name for name in names})
            return open_own_federation(
                grid,
                form,
                form.record(trained.weights, trained.state),
                initial=(
                    None if trained.initial is None else form.record(trained.initial, trained.state)
                ),
                strategy=None if strategy is None else _checked(strategy),
                train_config=None,
                least=known.least,
                deadline_s=DEADLINE_S,
                known=known.names,
                refused=known.refused,
                sessions=known.sessions,
                with_classes=True,
            )

        run(opened, context.run_config)

    return app


def _checked(make: Callable[[], object]) -> Callable[[], Strategy]:
    def strategy() -> Strategy:
        made = make()
        if not isinstance(made, Strategy):
            raise InputError(
                f"[tool.fedunlearn] strategy: the function returns {type(made).__name__}; let it "
                "return a strategy of flwr.serverapp.strategy"
            )
        return made

    return strategy
